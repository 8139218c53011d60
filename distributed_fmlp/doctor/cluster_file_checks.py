"""Checks a cluster file without a cluster: Ray's own validation, and what that doesn't catch."""

from __future__ import annotations

import os
from collections.abc import Sequence

from distributed_fmlp.doctor.cluster_file import ClusterFile, read_cluster_file
from distributed_fmlp.doctor.cluster_file_access import check_access
from distributed_fmlp.doctor.cluster_file_machines import check_machines
from distributed_fmlp.doctor.cluster_file_versions import check_versions
from distributed_fmlp.doctor.findings import Finding, failed, ok

# What makes a token, by the end of its file's name.
_TOKENS = {
    "auth_token": "ray get-auth-token --generate",
    "api_token": "(umask 077; python -c 'import secrets; print(secrets.token_hex(32))' > {path})",
}


def check_cluster_file(path: str, storage: str | None) -> list[Finding]:
    """All checks that need no cluster.

    Raises `ClusterError` when there is no such file or it is none for `ray up`.
    """
    file, found = read_cluster_file(path)
    if file is None:
        return found
    return [
        *found,
        *check_versions(file),
        *_mounts(file),
        *check_machines(file, storage),
        *check_access(file),
    ]


def _mounts(file: ClusterFile) -> list[Finding]:
    """Ray itself ends with an AssertionError, in the middle of ray up."""
    key = (file.written.get("auth") or {}).get("ssh_private_key")
    wanted: Sequence[str] = [*file.mounts.values(), *([key] if key else [])]
    missing = [path for path in wanted if not os.path.exists(os.path.expanduser(path))]
    if not missing:
        return [ok("files", f"{len(wanted)} to copy, all here")]
    tokens = {
        path: command.format(path=path)
        for path in missing
        for end, command in _TOKENS.items()
        if path.endswith(end)
    }
    found = [
        failed("files", f"{path}, to be copied to the nodes, is not here", advice)
        for path in missing
        if path not in tokens
        for advice in [
            "ssh-keygen makes a key" if path == key else "run this from the checkout's directory"
        ]
    ]
    found += [
        failed("files", f"there is no token yet ({path})", command)
        for path, command in tokens.items()
    ]
    return found
