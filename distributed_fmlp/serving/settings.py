"""Every setting of the service in one place, checked when the service is built."""

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from distributed_fmlp.errors import OptionError
from distributed_fmlp.serving.limits import LARGEST_BATCH, LARGEST_BODY, MOST_QUEUED

TOKEN_VARIABLE = "FMLP_API_TOKEN"
SHORTEST_TOKEN = 16


class ServiceArguments(BaseModel):
    """What `args` of serve/config.yaml may hold; unknown keys and bad values are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle: str | None = Field(
        default=None, description="bundle, run or run's name; None: the newest run's"
    )
    results: str = Field(default="results", description="where runs are looked for")
    replicas: int = Field(
        default=1, ge=1, description="replicas, unless `deployments` sets autoscaling"
    )
    cpus_per_replica: float = Field(default=1, ge=0)
    gpus_per_replica: float = Field(default=0, ge=0)
    max_batch_size: int = Field(
        default=128, ge=1, le=LARGEST_BATCH, description="images computed at once"
    )
    batch_wait_ms: float = Field(
        default=2.0, ge=0, le=1000, description="longest wait for a batch to fill"
    )
    max_queued: int = Field(
        default=512, ge=1, le=MOST_QUEUED, description="requests a replica holds before it says 503"
    )
    max_queued_images: int = Field(
        default=65536, ge=1, description="images a replica holds before it says 503"
    )
    max_images: int = Field(default=16384, ge=1, description="images of one request")
    max_body_bytes: int = Field(default=16 << 20, ge=1024, le=LARGEST_BODY)
    deadline_s: float = Field(
        default=10.0, gt=0, description="a request that has been there for longer is not computed"
    )
    retry_after_s: int = Field(default=1, ge=1, description="what a 503 tells clients to wait")
    token_file: str | None = Field(
        default=None, description=f"file with the token, else {TOKEN_VARIABLE}"
    )
    allowed_hosts: tuple[str, ...] = Field(
        default=(),
        description="names that /admin answers to without a token, besides loopback's: for a proxy "
        "on the same machine",
    )
    insecure: bool = Field(
        default=False, description="listen beyond loopback without a token; /admin is closed then"
    )


def read_token(token_file: str | None) -> bytes | None:
    """The token that clients must show: the file's content, else the environment's; or `None`.

    Raises `OptionError` when the file can't be read or the token is too short to be one.
    """
    if token_file is not None:
        try:
            text = Path(os.path.expanduser(token_file)).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:  # not text, or no path at all
            reason = getattr(error, "strerror", None) or "it isn't text"
            raise OptionError(
                f"the token file {token_file!r} can't be read ({reason}); give a text file that "
                "this user may read"
            ) from error
    else:
        text = os.environ.get(TOKEN_VARIABLE, "").strip()
        if not text:
            return None
    if len(text) < SHORTEST_TOKEN or not text.isascii() or any(c.isspace() for c in text):
        raise OptionError(
            f"the token is not usable: it must be at least {SHORTEST_TOKEN} characters of ASCII "
            "with no space; make one with: python -c 'import secrets; print(secrets.token_hex(32))'"
        )
    return text.encode()
