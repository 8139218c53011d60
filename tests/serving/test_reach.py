"""Whom a service's address lets in, and when that needs a token."""

from __future__ import annotations

from typing import Any

import pytest

from distributed_fmlp.errors import OptionError
from distributed_fmlp.serving.reach import check_reach, check_replicas_reached, http_host

LOOPBACK = ("127.0.0.1", "127.0.0.2", "::1", "localhost", None)
BEYOND = ("0.0.0.0", "::", "", "10.0.0.1", "192.0.2.1", "example.org", "localhost.example.org")


@pytest.mark.parametrize("host", LOOPBACK)
def test_on_loopback_neither_a_token_nor_a_word_is_needed(host: str | None) -> None:
    assert check_reach(host, has_token=False, insecure=False)


@pytest.mark.parametrize("host", BEYOND)
def test_beyond_loopback_one_of_both_is_needed(host: str) -> None:
    with pytest.raises(OptionError, match="insecure: true"):
        check_reach(host, has_token=False, insecure=False)
    assert not check_reach(host, has_token=True, insecure=False)
    assert not check_reach(host, has_token=False, insecure=True)


def test_without_ray_there_is_no_host_and_none_is_started() -> None:
    import ray

    assert ray.is_initialized() or http_host() is None


def node(alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"Alive": alive, "Resources": resources}


def head(**resources: float) -> dict[str, Any]:
    return {"Alive": True, "Resources": {"node:__internal_head__": 1.0, **resources}}


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
@pytest.mark.parametrize("nodes", [[head(CPU=1), node(CPU=1)], [head()], [head(CPU=0)]])
def test_on_loopback_replicas_on_other_nodes_are_hidden_from_haproxy(
    host: str, nodes: list[dict[str, Any]]
) -> None:
    with pytest.raises(OptionError, match=r"0\.0\.0\.0.*token_file.*serve shutdown"):
        check_replicas_reached(host, nodes)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1"])
def test_beyond_loopback_haproxy_reaches_replicas_on_every_node(host: str) -> None:
    check_replicas_reached(host, [head(), node(CPU=1)])


def test_on_loopback_haproxy_reaches_replicas_on_the_head() -> None:
    check_replicas_reached("127.0.0.1", [head(CPU=2), node(alive=False, CPU=8)])
    check_replicas_reached(None, [head(), node(CPU=1)])
