"""Compressed bodies: gzip and deflate in, never past a limit; gzip or deflate out when asked."""

from __future__ import annotations

import zlib

from distributed_fmlp.serving.errors import RequestError, quoted

_GZIP, _ZLIB, _RAW = 31, 15, -15  # zlib's wbits for the three formats
_SMALLEST_WORTHWHILE = 1024
_FASTEST = 1


def decompress(body: bytes, encoding: str | None, limit: int) -> bytes:
    """A body as it was before its `Content-Encoding`; at most `limit` bytes are ever produced.

    "deflate" may be the zlib format that RFC 9110 means or the raw one that some clients send.
    Raises `RequestError`: 415 for any other encoding or several at once, 413 past the limit, 400
    for damaged or truncated data, a second gzip member, or anything after the end.
    """
    name = (encoding or "identity").strip().lower()
    if name in ("", "identity"):
        if len(body) > limit:
            raise _too_large(limit)
        return body
    if name in ("gzip", "x-gzip"):
        return _inflated(body, _GZIP, limit, "gzip")
    if name == "deflate":
        looks_like_zlib = (
            len(body) >= 2 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0
        )
        return _inflated(body, _ZLIB if looks_like_zlib else _RAW, limit, "deflate")
    raise RequestError(
        415,
        f"the content encoding {quoted(encoding)} isn't taken; send gzip, deflate or none",
        headers={"Accept-Encoding": "gzip, deflate"},
    )


def compress_response(body: bytes, accept_encoding: str | None) -> tuple[bytes, str | None]:
    """The body to send and its `Content-Encoding`, None where it goes out as it is.

    It is compressed only when `Accept-Encoding` allows it and the body is at least 1 KiB.
    """
    encoding = _preferred(accept_encoding) if len(body) >= _SMALLEST_WORTHWHILE else None
    if encoding is None:
        return body, None
    compressor = zlib.compressobj(_FASTEST, zlib.DEFLATED, _GZIP if encoding == "gzip" else _ZLIB)
    return compressor.compress(body) + compressor.flush(), encoding


def _inflated(body: bytes, wbits: int, limit: int, name: str) -> bytes:
    inflater = zlib.decompressobj(wbits)
    try:
        plain = inflater.decompress(body, limit + 1)
    except zlib.error:
        raise RequestError(400, f"the body isn't valid {name} data") from None
    if len(plain) > limit:
        raise _too_large(limit)
    if not inflater.eof:
        raise RequestError(400, f"the {name} data of the body is truncated")
    if inflater.unused_data:
        raise RequestError(400, f"the body goes on after its {name} data ends")
    return plain


def _preferred(accept_encoding: str | None) -> str | None:
    """Whichever of gzip and deflate the header gives more weight; gzip where they are equal."""
    weights: dict[str, float] = {}
    for item in (accept_encoding or "").lower().split(","):
        name, _, parameters = item.partition(";")
        weights[name.strip()] = _weight(parameters)
    anything = weights.get("*", 0.0)
    gzip, deflate = (weights.get(name, anything) for name in ("gzip", "deflate"))
    if max(gzip, deflate) <= 0:
        return None
    return "gzip" if gzip >= deflate else "deflate"


def _weight(parameters: str) -> float:
    name, _, value = parameters.partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        weight = float(value)
    except ValueError:
        return 0.0
    return weight if 0 <= weight <= 1 else 0.0


def _too_large(limit: int) -> RequestError:
    return RequestError(413, f"the body is more than the {limit} bytes allowed")
