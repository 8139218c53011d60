"""File systems that a URI names: S3 and compatible, GCS and others, through pyarrow."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import parse_qs


def filesystem_of(uri: str) -> tuple[Any, str]:
    """The pyarrow file system and the path on it that `uri` means.

    Credentials come from where the provider's own tools take them: variables, files, the role of
    the instance. Raises `ValueError` (pyarrow's among them) when the URI can't be understood,
    `OSError` when its place can't be asked.
    """
    import pyarrow.fs

    if uri.startswith("s3://") and "endpoint_override" in parse_qs(uri.partition("?")[2]):
        # Somebody's own server: Amazon's metadata service, which isn't there, would be waited for,
        # four seconds each time that a client is made, which Tune does at every step.
        os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    filesystem, path = pyarrow.fs.FileSystem.from_uri(uri)
    return filesystem, str(path)
