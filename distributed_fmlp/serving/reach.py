"""How far the service's address reaches: whom it lets in, and that HAProxy finds the replicas."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from distributed_fmlp.errors import OptionError
from distributed_fmlp.serving.loopback import is_loopback

_HEAD = "node:__internal_head__"  # a resource that Ray gives to the head alone


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


def uses_haproxy() -> bool:
    """Whether Ray Serve was started in throughput mode, as Ray itself decides it."""
    return os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1"


def check_replicas_reached(host: str | None, nodes: Iterable[Mapping[str, Any]]) -> None:
    """That HAProxy, in throughput mode, reaches replicas wherever Ray may put them.

    Each replica listens at `host`, and HAProxy on the head asks it at its node's address. `nodes`
    are those of `ray.nodes()`. Raises `OptionError` when a replica would listen on the loopback of
    another node than the head: every request would be answered 503.
    """
    if host is None or not is_loopback(host):
        return
    alive = [node for node in nodes if node["Alive"]]
    # A head without a CPU to offer has no replica either: they come with nodes to come.
    if len(alive) > 1 or any(
        _HEAD in node["Resources"] and not node["Resources"].get("CPU") for node in alive
    ):
        raise OptionError(
            f"the HTTP host {host} hides replicas on other nodes than the head from HAProxy, which "
            "answers for all: set http_options.host to 0.0.0.0 and name a token_file (where Serve "
            "runs already, serve shutdown first: another host isn't taken over)"
        )
