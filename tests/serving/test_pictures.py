"""Pictures to 28x28: sizes, tones, modes, rotations, bombs; FashionMNIST comes back as it was."""

from __future__ import annotations

import io
import os
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from distributed_fmlp.serving.errors import RequestError
from distributed_fmlp.serving.limits import Limits
from distributed_fmlp.serving.pictures import Invert, fit, picture_to_pixels

LIMITS = Limits()


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    plain = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    plain.save(file, kind, **options)
    return file.getvalue()


def pixels(data: bytes, invert: Invert = "auto", limits: Limits = LIMITS) -> np.ndarray:
    found, _ = picture_to_pixels(data, invert, limits)
    assert found.shape == (28, 28) and found.dtype == np.uint8 and found.flags.c_contiguous
    return found


def shirt(height: int = 300, width: int = 400, box: tuple[int, ...] = (40, 240, 90, 190)) -> Any:
    """A dark article on white: two tones, its brighter part at the top left."""
    top, bottom, left, right = box
    image = np.full((height, width), 255, np.uint8)
    image[top:bottom, left:right] = 100
    image[top : (top + bottom) // 2, left : (left + right) // 2] = 40
    return image


def expected_shirt() -> np.ndarray:
    """200 x 100 fitted: 28 rows of 14 columns, centred, negated."""
    small = np.zeros((28, 28), np.uint8)
    small[:, 7:21] = 155
    small[:14, 7:14] = 215
    return small


def test_an_article_is_negated_trimmed_scaled_and_centred() -> None:
    np.testing.assert_allclose(pixels(encoded(shirt())).astype(int), expected_shirt(), atol=1)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16", "CMYK"])
def test_every_mode_of_picture_gives_the_same_pixels(mode: str) -> None:
    image = Image.fromarray(shirt())
    if mode == "1":
        image = image.point(lambda value: 255 * (value > 70))  # type: ignore[operator]
        # of two tones only the darker quarter is left, 100 x 50, and fills the frame instead
        expected = np.zeros((28, 28))
        expected[:, 7:21] = 255
        np.testing.assert_array_equal(pixels(encoded(image.convert("1"))), expected)
        return
    if mode == "I;16":
        data = encoded(Image.fromarray(shirt().astype(np.uint16) * 257))
    else:
        kind = "JPEG" if mode == "CMYK" else "PNG"
        data = encoded(image.convert(mode), kind)
    assert Image.open(io.BytesIO(data)).mode in (mode, "I")
    slack = 12 if mode == "CMYK" else 1
    assert np.abs(pixels(data).astype(int) - expected_shirt()).mean() <= slack


@pytest.mark.parametrize("tone", [0, 255])
@pytest.mark.parametrize("hidden", [0, 255])
def test_a_transparent_ground_never_hides_the_article(tone: int, hidden: int) -> None:
    image = np.full((100, 100, 4), hidden, np.uint8)
    image[..., 3] = 0
    image[20:80, 35:65] = (tone, tone, tone, 255)
    found = pixels(encoded(image))
    assert found[:, 7:21].min() == 255
    assert found[:, :7].max() == found[:, 21:].max() == 0


def test_a_palette_picture_with_a_transparent_colour_is_composited() -> None:
    image = Image.fromarray(np.where(shirt() == 255, 0, 1).astype(np.uint8), "P")
    image.putpalette([255, 0, 0, 20, 20, 20])
    found = pixels(encoded(image, transparency=0))
    assert found[:, 8:20].min() > 200 and found[:, :6].max() == 0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_the_orientation_in_the_exif_data_is_honoured(orientation: int, kind: str) -> None:
    upright = Image.fromarray(shirt())
    stored = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = upright if stored is None else upright.transpose(stored)
    found = pixels(encoded(image, kind, exif=exif.tobytes()))
    assert np.abs(found.astype(int) - expected_shirt()).mean() < 4


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_data_is_no_reason_to_refuse_a_picture() -> None:
    data = encoded(shirt(), "JPEG", exif=b"Exif\0\0MM\0\x2a\xff\xff\xff\xff garbage")
    assert np.abs(pixels(data).astype(int) - expected_shirt()).mean() < 4


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_large_photo_gives_what_a_small_one_does(kind: str) -> None:
    big = np.kron(shirt(), np.ones((8, 8), np.uint8))
    found = pixels(encoded(big, kind))
    assert np.abs(found.astype(int) - expected_shirt()).mean() < 4


def test_a_grey_and_noisy_ground_becomes_black() -> None:
    noise = np.random.default_rng(0).normal(0, 4, (300, 400))
    photo = np.clip(shirt() * (220 / 255) + noise, 0, 255).astype(np.uint8)
    found = pixels(encoded(photo))
    assert np.abs(found.astype(int) - expected_shirt()).mean() < 8
    assert found[:, :6].max() == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (28, 29), (2, 2), (3, 1000)])
@pytest.mark.parametrize("tone", [0, 128, 255])
def test_a_picture_with_nothing_on_it_becomes_black(shape: tuple[int, int], tone: int) -> None:
    assert not pixels(encoded(np.full(shape, tone, np.uint8))).any()


def test_28_by_28_passes_unchanged_but_for_inversion() -> None:
    inside = np.random.default_rng(0).integers(0, 256, (26, 26)).astype(np.uint8)
    dark = np.pad(inside, 1, constant_values=3)
    for data in (encoded(dark), encoded(Image.fromarray(dark).convert("RGB"))):
        np.testing.assert_array_equal(pixels(data), dark)
        np.testing.assert_array_equal(pixels(data, "false"), dark)
        np.testing.assert_array_equal(pixels(data, "true"), 255 - dark)
    np.testing.assert_array_equal(pixels(encoded(255 - dark)), dark)


def test_told_not_to_invert_the_ground_stays_bright() -> None:
    found = pixels(encoded(shirt()), "false")
    np.testing.assert_allclose(found.astype(int), 255 - expected_shirt(), atol=1)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_claiming(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(2**20))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(10_000, 10_000), (50_000, 50_000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_from_its_header(size: tuple[int, int]) -> None:
    before = time.perf_counter()
    with pytest.raises(RequestError) as caught:
        picture_to_pixels(png_claiming(*size), "auto", LIMITS)
    assert caught.value.status == 413
    assert time.perf_counter() - before < 0.5


def test_the_limit_is_on_pixels_and_on_what_the_request_has_left() -> None:
    data = encoded(shirt())
    assert picture_to_pixels(data, "auto", LIMITS, pixel_budget=120_000)[1] == 120_000
    for limits, budget in ((Limits(max_picture_pixels=119_999), None), (LIMITS, 119_999)):
        with pytest.raises(RequestError) as caught:
            picture_to_pixels(data, "auto", limits, pixel_budget=budget)
        assert caught.value.status == 413


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "EPS"])
def test_only_whole_png_and_jpeg_files_are_read(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 60)).astype(np.uint8)
    data = encoded(noise, kind)
    if kind in ("PNG", "JPEG"):
        data = data[: len(data) // 2]
    with pytest.raises(RequestError) as caught:
        picture_to_pixels(data, "auto", LIMITS)
    assert caught.value.status == 400


@given(st.integers(1, 90), st.integers(1, 90), st.binary(min_size=1, max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_grey_picture_fits(height: int, width: int, tones: bytes) -> None:
    grey = np.resize(np.frombuffer(tones, np.uint8), (height, width))
    for invert in ("auto", "true", "false"):
        found = fit(grey, invert)  # type: ignore[arg-type]
        assert found.shape == (28, 28) and found.dtype == np.uint8


def test_inverting_a_picture_changes_nothing_of_what_the_model_sees() -> None:
    for seed in range(20):
        random = np.random.default_rng(seed)
        grey = np.full((90, 120), 255, np.uint8)
        grey[20:70, 30:100] = random.integers(0, 200, (50, 70))
        np.testing.assert_array_equal(fit(grey), fit(255 - grey))


@pytest.mark.real_data
def test_fashion_mnist_comes_back_from_enlarged_photos_of_itself() -> None:
    """Training images as photos: 8 times as large, off-centre, on white."""
    import gzip

    root = os.environ.get("FMLP_DATA_DIR")
    path = Path(root or ".") / "FashionMNIST/raw/train-images-idx3-ubyte.gz"
    if root is None or not path.exists():
        pytest.skip("FMLP_DATA_DIR has no FashionMNIST")
    with gzip.open(path) as file:
        images = np.frombuffer(file.read(16 + 300 * 784), np.uint8, offset=16).reshape(-1, 28, 28)
    sharp, smooth = [], []
    for image in images:
        np.testing.assert_array_equal(pixels(encoded(255 - image)), image)
        for how, errors in ((Image.Resampling.NEAREST, sharp), (Image.Resampling.BICUBIC, smooth)):
            large = np.asarray(Image.fromarray(image).resize((224, 224), how))
            found = pixels(encoded(255 - np.pad(large, ((30, 50), (41, 67)))))
            errors.append(np.abs(found.astype(int) - image).mean())
    assert np.mean(np.array(sharp) == 0) > 0.8 and np.mean(sharp) < 4
    assert np.median(smooth) < 8 and np.mean(smooth) < 10
