"""The body of `POST /predict` to images: JSON, raw pixels, .npy, a picture, or several files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distributed_fmlp.serving.errors import RequestError, quoted
from distributed_fmlp.serving.limits import Limits
from distributed_fmlp.serving.multipart import files_of
from distributed_fmlp.serving.pictures import Invert, is_picture, picture_to_pixels
from distributed_fmlp.serving.tensor_data import (
    PIXELS,
    SIDE,
    Images,
    check_unit_range,
    may_hold_booleans,
    parse_json,
    uint8_bytes,
)

CONTENT_TYPES = (
    "application/json",
    "application/octet-stream",
    "application/x-npy",
    "image/png",
    "image/jpeg",
    "multipart/form-data",
)
_NPY = b"\x93NUMPY"
_NPY_LONGEST_HEADER = 4096
# exactly what NumPy writes; read without evaluating anything
_NPY_HEADER = re.compile(
    rb"\s*\{\s*'descr'\s*:\s*'([<>|=][uif][1248])'\s*,\s*'fortran_order'\s*:\s*(True|False)\s*,"
    rb"\s*'shape'\s*:\s*\(\s*((?:[0-9]{1,9}\s*,?\s*){0,4})\)\s*,?\s*\}\s*"
)


@dataclass(frozen=True, slots=True)
class PredictInput:
    """What was sent to be classified.

    `images` is C-contiguous `[N, 784]`, N at least 1: uint8, or float32 within [0, 1] (only from
    .npy). It may be a read-only view of the body. `from_pictures` says for each of the N whether a
    picture was fitted to 28x28 for it, so that the answer can show what the model saw.
    """

    images: Images
    from_pictures: tuple[bool, ...]


def decode_predict(
    body: bytes, content_type: str | None, query: Mapping[str, str], limits: Limits
) -> PredictInput:
    """Read the body (already decompressed) of `POST /predict` by its `Content-Type`.

    `query` may have `invert`: auto, true or false, for pictures. Raises `RequestError`: 415 for a
    content type that isn't taken, 413 past a limit, 400 for everything else, naming it.
    """
    limits.check_body(len(body))
    invert = _invert(query)
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return _from_files(body, content_type or "", invert, limits)
    if kind in ("image/png", "image/jpeg", "image/jpg"):
        pixels, _ = picture_to_pixels(body, invert, limits)
        return PredictInput(pixels.reshape(1, PIXELS), (True,))
    decoder = _DECODERS.get(kind)
    if decoder is None:
        given = f"the content type {quoted(kind)} isn't taken" if kind else "no content type"
        raise RequestError(415, f"{given}; send one of {', '.join(CONTENT_TYPES)}")
    images = decoder(body, limits)
    return PredictInput(images, (False,) * len(images))


def _invert(query: Mapping[str, str]) -> Invert:
    value = query.get("invert", "auto")
    if value == "auto" or value == "true" or value == "false":
        return value  # type: ignore[return-value]
    raise RequestError(400, f"invert is {quoted(value)}; it must be auto, true or false")


def _from_json(body: bytes, limits: Limits) -> Images:
    request = parse_json(body, limits)
    instances = request.get("instances") if type(request) is dict else None
    if type(instances) is not list:
        raise RequestError(400, 'the JSON must be {"instances": [image, …]}')
    limits.check_images(len(instances))
    check_booleans = may_hold_booleans(body)
    raw = [
        _instance(instance, f"instances[{index}]", check_booleans)
        for index, instance in enumerate(instances)
    ]
    joined = raw[0] if len(raw) == 1 else b"".join(raw)
    return np.frombuffer(joined, np.uint8).reshape(-1, PIXELS)


def _instance(instance: Any, name: str, check_booleans: bool) -> bytes:
    numbers = instance
    if type(numbers) is list and numbers and type(numbers[0]) is list:
        square = len(numbers) == SIDE and all(
            type(row) is list and len(row) == SIDE for row in numbers
        )
        if not square:
            raise RequestError(400, f"{name} isn't 28 lists of 28 numbers")
        numbers = list(chain.from_iterable(numbers))
    if type(numbers) is not list or len(numbers) != PIXELS:
        found = f"{len(numbers)} elements" if type(numbers) is list else quoted(numbers)
        raise RequestError(400, f"{name} has {found}; an image is 784 numbers or 28 lists of 28")
    return uint8_bytes(numbers, name, check_booleans=check_booleans)


def _from_octets(body: bytes, limits: Limits) -> Images:
    if body.startswith(_NPY):
        return _from_npy(body, limits)
    if len(body) % PIXELS:
        hint = "; send a picture as image/png or image/jpeg" if is_picture(body) else ""
        raise RequestError(400, f"{len(body)} raw bytes aren't a multiple of 784{hint}")
    limits.check_images(len(body) // PIXELS)
    return np.frombuffer(body, np.uint8).reshape(-1, PIXELS)


def _from_npy(body: bytes, limits: Limits) -> Images:
    """A .npy file: integers from 0 to 255, or floats within [0, 1]; nothing is unpickled.

    The size that the header declares is checked before any array is made. Format:
    https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
    """
    dtype, fortran, shape, start = _npy_header(body)
    count = _npy_count(shape)
    limits.check_images(count)
    if len(body) - start != count * PIXELS * dtype.itemsize:
        raise RequestError(
            400,
            f"the .npy file has {len(body) - start} bytes of data where its header "
            f"says {count * PIXELS * dtype.itemsize}",
        )
    array: NDArray[Any] = np.frombuffer(body, dtype, count * PIXELS, start)
    if fortran:
        array = np.ascontiguousarray(array.reshape(shape, order="F"))
    array = array.reshape(count, PIXELS)
    if dtype.kind == "f":
        check_unit_range(array.astype(np.float64, copy=False), "the .npy array")
        return np.require(array, np.float32, ["C", "ALIGNED"])
    if dtype != np.uint8 and (array.min() < 0 or array.max() > 255):
        raise RequestError(400, "the .npy array has integers outside 0 to 255")
    return np.ascontiguousarray(array, np.uint8)


def _npy_header(body: bytes) -> tuple[np.dtype[Any], bool, tuple[int, ...], int]:
    """Data type, whether column-major, shape, and where the data starts."""
    version = body[6:8]
    width = {b"\x01\x00": 2, b"\x02\x00": 4, b"\x03\x00": 4}.get(version)
    if not body.startswith(_NPY) or width is None:
        raise RequestError(400, "that isn't a .npy file of format 1, 2 or 3")
    length = int.from_bytes(body[8 : 8 + width], "little")
    start = 8 + width + length
    if length > _NPY_LONGEST_HEADER or start > len(body):
        raise RequestError(400, "the header of the .npy file is truncated or too long")
    match = _NPY_HEADER.fullmatch(body, 8 + width, start)
    if match is None:
        raise RequestError(
            400, "the .npy file must hold a plain array of integers or floats, of 1 to 3 dimensions"
        )
    descr, fortran, sizes = match.groups()
    try:
        dtype = np.dtype(descr.decode("ascii"))
    except TypeError:  # such as one-byte floats
        raise RequestError(400, "the .npy file has an unknown data type") from None
    shape = tuple(int(size) for size in re.findall(rb"[0-9]+", sizes))
    return dtype, fortran == b"True", shape, start


def _npy_count(shape: tuple[int, ...]) -> int:
    if shape in ((PIXELS,), (SIDE, SIDE)):
        return 1
    if shape[1:] in ((PIXELS,), (SIDE, SIDE)):
        return shape[0]
    raise RequestError(
        400,
        f"the .npy array has the shape {list(shape)}; "
        "it must be [784], [28, 28], [N, 784] or [N, 28, 28]",
    )


_DECODERS: Mapping[str, Callable[[bytes, Limits], Images]] = {
    "application/json": _from_json,
    "application/octet-stream": _from_octets,
    "application/x-npy": _from_npy,
}


def _from_files(body: bytes, content_type: str, invert: Invert, limits: Limits) -> PredictInput:
    """Pictures and .npy files, told apart by their first bytes whatever their names say."""
    arrays: list[Images] = []
    from_pictures: list[bool] = []
    budget = limits.max_request_pixels
    for number, data in enumerate(files_of(body, content_type, limits), start=1):
        try:
            if data.startswith(_NPY):
                images = _from_npy(data, limits)
            elif is_picture(data):
                pixels, spent = picture_to_pixels(data, invert, limits, pixel_budget=budget)
                budget -= spent
                images = pixels.reshape(1, PIXELS)
            else:
                raise RequestError(400, "it is neither PNG, JPEG nor .npy")
        except RequestError as error:
            raise RequestError(error.status, f"file {number}: {error.message}") from None
        arrays.append(images)
        from_pictures += [is_picture(data)] * len(images)
        limits.check_images(len(from_pictures))
    return PredictInput(_joined(arrays), tuple(from_pictures))


def _joined(arrays: list[Images]) -> Images:
    if all(array.dtype == np.uint8 for array in arrays):
        return np.concatenate(arrays).astype(np.uint8, copy=False)
    floats = [
        array.astype(np.float32) / np.float32(255) if array.dtype == np.uint8 else array
        for array in arrays
    ]
    return np.concatenate(floats).astype(np.float32, copy=False)
