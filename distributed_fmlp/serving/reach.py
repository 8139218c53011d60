"""How far the service's address reaches, and that a service for others asks for a token."""

from __future__ import annotations

from distributed_fmlp.errors import OptionError
from distributed_fmlp.serving.loopback import is_loopback


def http_host() -> str | None:
    """The host that Ray Serve, which runs already, listens at for HTTP; `None` where it doesn't."""
    import ray

    if not ray.is_initialized():  # to ask would start one
        return None
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    return None if client is None else client.http_config.host


def check_reach(host: str | None, *, has_token: bool, insecure: bool) -> bool:
    """Whether the service is for this machine alone.

    Raises `OptionError` when others reach it, no token is asked for, and that isn't wanted
    explicitly.
    """
    if host is None or is_loopback(host):
        return True
    if not (has_token or insecure):
        raise OptionError(
            f"the HTTP host {host} lets other machines in, and there is no token: set "
            "FMLP_API_TOKEN before Ray starts on every node or name a token_file, or say "
            "insecure: true"
        )
    return False
