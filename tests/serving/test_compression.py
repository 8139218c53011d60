"""Compressed bodies: read back exactly, stopped at the limit, refused when damaged."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distributed_fmlp.serving.compression import compress_response, decompress
from distributed_fmlp.serving.errors import RequestError


def raw_deflate(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-15)
    return deflater.compress(data) + deflater.flush()


@given(st.binary(max_size=3000))
@settings(max_examples=100, deadline=None)
def test_compressed_bodies_come_back(data: bytes) -> None:
    assert decompress(gzip.compress(data, mtime=0), "gzip", 3000) == data
    assert decompress(gzip.compress(data, mtime=0), " X-GZIP ", 3000) == data
    assert decompress(zlib.compress(data), "deflate", 3000) == data
    assert decompress(data, None, 3000) == decompress(data, "identity", 3000) == data
    for accept in ("gzip", "deflate", "br", None):
        body, used = compress_response(data, accept)
        assert decompress(body, used, 3000) == data


@given(st.binary(max_size=500), st.sampled_from(["gzip", "deflate", "br", "identity", ""]))
@settings(max_examples=200, deadline=None)
def test_any_compressed_body_is_read_or_refused(data: bytes, encoding: str) -> None:
    try:
        assert len(decompress(data, encoding, 400)) <= 400
    except RequestError as error:
        assert error.status in (400, 413, 415)


def test_raw_deflate_is_taken_too() -> None:
    assert decompress(raw_deflate(b"some text"), "deflate", 10**6) == b"some text"


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compressed_bomb_is_stopped_at_the_limit(encoding: str) -> None:
    bomb = (gzip if encoding == "gzip" else zlib).compress(bytes(50 * 2**20))
    with pytest.raises(RequestError) as caught:
        decompress(bomb, encoding, 2**20)
    assert caught.value.status == 413
    whole = (gzip if encoding == "gzip" else zlib).compress(bytes(2**20))
    assert len(decompress(whole, encoding, 2**20)) == 2**20


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (gzip.compress(b"x", mtime=0)[:-1], "gzip", 400),
        (gzip.compress(b"x", mtime=0) * 2, "gzip", 400),
        (b"plain", "gzip", 400),
        (b"", "deflate", 400),
        (b"x", "br", 415),
        (gzip.compress(b"x", mtime=0), "gzip, deflate", 415),
        (b"xx", None, 413),
    ],
)
def test_what_cannot_be_decompressed_is_refused(
    body: bytes, encoding: str | None, status: int
) -> None:
    with pytest.raises(RequestError) as caught:
        decompress(body, encoding, 1)
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("accept", "used"),
    [
        ("gzip, deflate, br", "gzip"),
        ("deflate;q=0.9, gzip;q=0.1", "deflate"),
        ("gzip;q=0", None),
        ("*", "gzip"),
        ("br", None),
        ("gzip;q=x", None),
        ("", None),
        (None, None),
    ],
)
def test_an_answer_is_compressed_only_as_asked(accept: str | None, used: str | None) -> None:
    assert compress_response(bytes(5000), accept)[1] == used
    assert compress_response(bytes(50), accept) == (bytes(50), None)
