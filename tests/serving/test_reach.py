"""Whom a service's address lets in, and when that needs a token."""

from __future__ import annotations

import pytest

from distributed_fmlp.errors import OptionError
from distributed_fmlp.serving.reach import check_reach, http_host

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
