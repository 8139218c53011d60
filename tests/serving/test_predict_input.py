"""`POST /predict`: every accepted form gives the pixels sent, and all else is refused by name."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from distributed_fmlp.serving.errors import RequestError
from distributed_fmlp.serving.limits import Limits
from distributed_fmlp.serving.predict_input import CONTENT_TYPES, PredictInput, decode_predict

LIMITS = Limits()
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 784)).astype(np.uint8)
# dark border, so that nothing is inverted
PICTURE = np.pad(PIXELS[0].reshape(28, 28)[4:24, 4:24], 4)
BOUNDARY = b"----boundary7d"


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def picture(array: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, quality=100)
    return file.getvalue()


def multipart(*files: bytes, name: bytes = b'; filename="a.png"') -> bytes:
    parts = [
        b"--" + BOUNDARY + b'\r\nContent-Disposition: form-data; name="file"' + name
        + b"\r\n\r\n" + data + b"\r\n"
        for data in files
    ]  # fmt: skip
    return b"".join(parts) + b"--" + BOUNDARY + b"--\r\n"


MULTIPART = "multipart/form-data; boundary=" + BOUNDARY.decode()


def instances(value: Any) -> bytes:
    return json.dumps({"instances": value}).encode()


def decode(body: bytes, kind: str | None, limits: Limits = LIMITS, **query: str) -> PredictInput:
    return decode_predict(body, kind, query, limits)


def refusal(body: bytes, kind: str | None, limits: Limits = LIMITS, **query: str) -> RequestError:
    with pytest.raises(RequestError) as caught:
        decode(body, kind, limits, **query)
    return caught.value


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (instances(PIXELS.tolist()), "application/json"),
        (instances(PIXELS.reshape(3, 28, 28).tolist()), "Application/JSON; charset=utf-8"),
        (instances([PIXELS[0].tolist(), *PIXELS[1:].reshape(2, 28, 28).tolist()]),
         "application/json"),
        (instances(PIXELS.astype(float).tolist()), "application/json"),
        (PIXELS.tobytes(), "application/octet-stream"),
        (npy(PIXELS), "application/octet-stream"),
        (npy(PIXELS), "application/x-npy"),
        (npy(PIXELS.reshape(3, 28, 28)), "application/x-npy"),
        (npy(np.asfortranarray(PIXELS)), "application/x-npy"),
        (npy(np.asfortranarray(PIXELS.reshape(3, 28, 28))), "application/x-npy"),
        (npy(PIXELS.astype(np.int64)), "application/x-npy"),
        (npy(PIXELS.astype(">i2")), "application/x-npy"),
        (multipart(*(npy(row) for row in PIXELS)), MULTIPART),
        (multipart(npy(PIXELS[:2]), npy(PIXELS[2].reshape(28, 28))), MULTIPART),
    ],
)  # fmt: skip
def test_every_form_gives_the_pixels_sent(body: bytes, kind: str) -> None:
    decoded = decode(body, kind)
    assert decoded.images.dtype == np.uint8 and decoded.images.flags.c_contiguous
    np.testing.assert_array_equal(decoded.images, PIXELS)
    assert decoded.from_pictures == (False, False, False)


@pytest.mark.parametrize("dtype", ["<f4", "<f8", ">f4", "<f2"])
def test_float_arrays_keep_their_values(dtype: str) -> None:
    values = (PIXELS / 255).astype(dtype)
    decoded = decode(npy(values), "application/x-npy")
    assert decoded.images.dtype == np.float32 and decoded.images.flags.aligned
    np.testing.assert_array_equal(decoded.images, values.astype(np.float32))


def test_a_picture_of_the_right_size_keeps_its_pixels() -> None:
    decoded = decode(picture(PICTURE), "image/png")
    np.testing.assert_array_equal(decoded.images, PICTURE.reshape(1, 784))
    assert decoded.from_pictures == (True,)


def test_files_come_out_in_order_whatever_they_are() -> None:
    body = multipart(picture(PICTURE), npy(PIXELS), picture(255 - PICTURE, "JPEG"))
    decoded = decode(body, MULTIPART)
    assert decoded.from_pictures == (True, False, False, False, True)
    np.testing.assert_array_equal(decoded.images[0], PICTURE.reshape(784))
    np.testing.assert_array_equal(decoded.images[1:4], PIXELS)
    assert np.abs(decoded.images[4].astype(int) - PICTURE.reshape(784)).mean() < 2


def test_floats_beside_pixels_make_all_of_them_floats() -> None:
    floats = np.full((1, 784), 0.25, np.float32)
    decoded = decode(multipart(npy(PIXELS), npy(floats)), MULTIPART)
    assert decoded.images.dtype == np.float32
    np.testing.assert_allclose(decoded.images[:3] * 255, PIXELS, atol=1e-4)
    np.testing.assert_array_equal(decoded.images[3:], floats)


def test_invert_overrides_what_the_border_says() -> None:
    body = picture(255 - PICTURE)
    for how, expected in (("auto", PICTURE), ("true", PICTURE), ("false", 255 - PICTURE)):
        decoded = decode(body, "image/png", invert=how)
        np.testing.assert_array_equal(decoded.images, expected.reshape(1, 784))
    assert "'maybe'" in refusal(body, "image/png", invert="maybe").message


@pytest.mark.parametrize("kind", [None, "", "text/plain", "application/x-www-form-urlencoded", "é"])
def test_another_content_type_is_refused_with_those_taken(kind: str | None) -> None:
    error = refusal(PIXELS.tobytes(), kind)
    assert error.status == 415
    assert all(accepted in error.message for accepted in CONTENT_TYPES)


JSON, RAW, NPY, PNG = CONTENT_TYPES[:4]


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        (b"", JSON, "isn't valid JSON"),
        (b"[1]", JSON, "instances"),
        (b'{"images": []}', JSON, "instances"),
        (instances({}), JSON, "instances"),
        (instances([]), JSON, "no images"),
        (instances(PIXELS[0].tolist()), JSON, "instances[0] has "),
        (instances([PIXELS[0].tolist(), [1, 2]]), JSON, "instances[1] has 2 elements"),
        (instances([[]]), JSON, "instances[0] has 0 elements"),
        (instances([[[0] * 28] * 27]), JSON, "instances[0] isn't 28 lists"),
        (instances([[[0] * 28] * 27 + [[0] * 27]]), JSON, "isn't 28 lists"),
        (instances([[[0] * 28] * 27 + [0]]), JSON, "isn't 28 lists"),
        (instances([[0] * 783 + [256]]), JSON, "instances[0][783] is 256"),
        (instances([[0] * 783 + [0.5]]), JSON, "instances[0][783] is 0.5"),
        (instances([[0] * 783 + [True]]), JSON, "instances[0][783] is true"),
        (instances([[0] * 783 + ["0"]]), JSON, "instances[0][783] is '0'"),
        (instances([[0] * 783 + [[0]]]), JSON, "instances[0][783] is a list"),
        (b"", RAW, "no images"),
        (bytes(783), RAW, "783 raw bytes"),
        (picture(PICTURE), RAW, "image/png"),
        (b"\x93NUMPY\x01\x00\x10", NPY, "truncated"),
        (b"\x93NUMPY\x09\x00" + bytes(80), NPY, "format 1, 2 or 3"),
        (b"PK\x03\x04", NPY, "isn't a .npy"),
        (npy(PIXELS)[:-1], NPY, "bytes of data"),
        (npy(PIXELS) + b"x", NPY, "bytes of data"),
        (npy(PIXELS[:0]), NPY, "no images"),
        (npy(PIXELS[:, :-1]), NPY, "[3, 783]"),
        (npy(PIXELS.reshape(3, 1, 784)), NPY, "[3, 1, 784]"),
        (npy(PIXELS.reshape(3, 1, 28, 28)), NPY, "[3, 1, 28, 28]"),
        (npy(np.array([{}], object)), NPY, "plain array"),
        (npy(PIXELS > 3), NPY, "plain array"),
        (npy(PIXELS.astype(complex)), NPY, "plain array"),
        (npy(np.zeros(784, [("a", "u1")])), NPY, "plain array"),
        (npy(PIXELS.astype(np.int16) - 1), NPY, "outside 0 to 255"),
        (npy(PIXELS.astype(np.uint16) + 1), NPY, "outside 0 to 255"),
        (npy(PIXELS.astype(np.float32)), NPY, "between 0 and 1"),
        (npy(np.full(784, np.nan)), NPY, "is nan"),
        (npy(np.full(784, 1 + 1e-9)), NPY, "between 0 and 1"),
        (b"not a picture", PNG, "isn't a PNG or JPEG"),
        (b"GIF89a" + bytes(50), PNG, "isn't a PNG or JPEG"),
        (multipart(picture(PICTURE)), "multipart/form-data", "no boundary"),
        (multipart(), MULTIPART, "multipart"),
        (multipart(picture(PICTURE))[:-30], MULTIPART, "truncated"),
        (multipart(b"text", name=b""), MULTIPART, "no file"),
        (multipart(picture(PICTURE), b"hello"), MULTIPART, "file 2: it is neither"),
        (multipart(picture(PICTURE)[:80]), MULTIPART, "file 1: the picture is damaged"),
        (b"garbage", MULTIPART, "multipart"),
    ],
)
def test_a_wrong_body_is_refused_by_name(body: bytes, kind: str, said: str) -> None:
    error = refusal(body, kind)
    assert error.status == 400
    assert said in error.message
    assert len(error.message) < 250


def test_past_a_limit_the_answer_is_413() -> None:
    few = Limits(max_images=2)
    assert refusal(PIXELS.tobytes(), RAW, few).status == 413
    assert refusal(instances(PIXELS.tolist()), JSON, few).status == 413
    assert refusal(npy(PIXELS), NPY, few).status == 413
    assert refusal(multipart(*(npy(row) for row in PIXELS)), MULTIPART, few).status == 413
    assert refusal(multipart(*[b"x"] * 3), MULTIPART, Limits(max_files=2)).status == 413
    assert refusal(PIXELS.tobytes(), RAW, Limits(max_body_bytes=2000)).status == 413
    pair = multipart(picture(PICTURE), picture(PICTURE))
    assert "file 2" in refusal(pair, MULTIPART, Limits(max_request_pixels=1500)).message
    assert len(decode(pair, MULTIPART, Limits(max_request_pixels=1568)).images) == 2


def test_a_npy_header_that_promises_too_much_allocates_nothing() -> None:
    promise = npy(PIXELS).replace(b"(3, 784), }        ", b"(999999999, 784), }")
    assert len(promise) == len(npy(PIXELS))
    assert refusal(promise, NPY).status == 413


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 4), st.just(784))), st.sampled_from("CF"))
@settings(max_examples=60, deadline=None)
def test_pixels_survive_every_way_of_sending_them(pixels: np.ndarray, order: Any) -> None:
    for body, kind in (
        (instances(pixels.tolist()), JSON),
        (instances(pixels.reshape(-1, 28, 28).tolist()), JSON),
        (npy(np.array(pixels, order=order)), NPY),
        (multipart(*(npy(row) for row in pixels)), MULTIPART),
    ):
        np.testing.assert_array_equal(decode(body, kind).images, pixels)


SEEDS = [
    (instances([PIXELS[0].tolist()]), JSON),
    (PIXELS.tobytes(), RAW),
    (npy(PIXELS[0]), NPY),
    (npy((PIXELS[0] / 255).astype(np.float32)), NPY),
    (picture(PICTURE), PNG),
    (picture(PICTURE, "JPEG"), "image/jpeg"),
    (multipart(picture(PICTURE), npy(PIXELS)), MULTIPART),
]


@given(st.binary(max_size=300), st.sampled_from([*CONTENT_TYPES[:5], MULTIPART]), st.booleans())
@settings(max_examples=500, deadline=None)
def test_any_bytes_are_decoded_or_refused(tail: bytes, kind: str, with_magic: bool) -> None:
    magic = {NPY: b"\x93NUMPY\x01\x00", PNG: b"\x89PNG\r\n\x1a\n", "image/jpeg": b"\xff\xd8\xff"}
    survives((magic.get(kind, b"") if with_magic else b"") + tail, kind)


@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), max_size=4),
    st.integers(0, 10**4) | st.none(),
)
@settings(max_examples=800, deadline=None)
def test_a_damaged_body_is_decoded_or_refused(
    seed: tuple[bytes, str], changes: list[tuple[int, int]], cut: int | None
) -> None:
    body = bytearray(seed[0])
    for place, value in changes:
        # most damage goes to the first 200 bytes, where the headers are
        body[place % (len(body) if place % 3 == 0 else 200)] = value
    survives(bytes(body if cut is None else body[: cut % len(body)]), seed[1])


@given(st.text(max_size=80), st.text(max_size=10))
@settings(max_examples=200, deadline=None)
def test_any_content_type_and_option_is_answered(kind: str, invert: str) -> None:
    for content_type in (kind, "multipart/form-data;" + kind):
        try:
            decode(PIXELS.tobytes(), content_type, invert=invert)
        except RequestError as error:
            assert error.status in (400, 415)
            error.body()


def survives(body: bytes, kind: str) -> None:
    try:
        images = decode(body, kind).images
    except RequestError as error:
        assert error.status in (400, 413)
        assert error.message.isprintable() and len(error.message) < 300
        return
    assert images.shape[1:] == (784,) and len(images) >= 1
    assert images.dtype in (np.uint8, np.float32)
    assert images.flags.c_contiguous
