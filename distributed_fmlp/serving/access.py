"""Who may ask: the bearer token, and that no foreign web page works the administration."""

from __future__ import annotations

import hmac
from collections.abc import Collection
from urllib.parse import urlsplit

from distributed_fmlp.serving.errors import RequestError
from distributed_fmlp.serving.exchange import Request
from distributed_fmlp.serving.loopback import is_loopback


def shows_token(request: Request, token: bytes) -> bool:
    """Whether `Authorization: Bearer` carries the token (RFC 6750)."""
    scheme, _, given = request.headers.get(b"authorization", b"").partition(b" ")
    right = hmac.compare_digest(given.strip(), token)
    return scheme.lower() == b"bearer" and right


def check_token(request: Request, token: bytes) -> None:
    """Raise `RequestError` 401 unless the request shows the token."""
    if not shows_token(request, token):
        raise RequestError(401, "this needs the header Authorization: Bearer with the right token")


def check_local(is_local: bool) -> None:
    """Raise `RequestError` 403 where others than this machine could ask, and show no token."""
    if not is_local:
        raise RequestError(
            403,
            "this service listens beyond loopback and asks for no token, so nobody may administer "
            "it: start it with FMLP_API_TOKEN or a token file",
        )


def check_host(request: Request, allowed_hosts: Collection[str]) -> None:
    """Raise `RequestError` 403 unless `Host` is a loopback name or address, or one allowed.

    A page elsewhere can make its own name resolve to 127.0.0.1 (DNS rebinding); the browser then
    takes this service for the page's own origin, but sends the page's name as `Host`.
    """
    host = _host(request)
    if host is None or not (
        is_loopback(host) or host.endswith(".localhost") or host in allowed_hosts
    ):
        raise RequestError(
            403, "without a token this is for loopback names and for hosts allowed by option"
        )


def check_same_origin(request: Request) -> None:
    """Raise `RequestError` 403 for what a page of another origin makes a browser send.

    Programs send neither `Origin` nor `Sec-Fetch-Site`, and pass.
    """
    origin = request.header(b"origin")
    if origin is not None:
        host = request.header(b"host")
        if not host or _netloc(origin) != host.lower():
            raise RequestError(403, "a page of another origin may not ask this")
    if request.headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
        raise RequestError(403, "a page of another origin may not ask this")


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _host(request: Request) -> str | None:
    """The name or address in `Host`, without port or brackets; None if it's missing or damaged."""
    value = request.header(b"host")
    if not value or any(char in value for char in "@/?#\\"):
        return None
    try:
        return urlsplit(f"//{value}").hostname
    except ValueError:
        return None
