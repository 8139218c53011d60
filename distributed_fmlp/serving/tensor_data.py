"""Numbers as JSON gives them, to pixels: exact, fast, and saying which number was wrong.

The quick paths hand the whole list to C (`bytes`, `struct.pack`); only when that refuses, or when
the text has a `true` or `false` that C would take for 1 or 0, are the numbers looked at apart.
"""

from __future__ import annotations

import math
import struct
from itertools import chain
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from distributed_fmlp.serving.errors import RequestError, quoted
from distributed_fmlp.serving.limits import Limits

PIXELS = 784
SIDE = 28
UInt8Images = NDArray[np.uint8]
Float32Images = NDArray[np.float32]
Images = UInt8Images | Float32Images  # [N, 784], C-contiguous; floats lie in [0, 1]

_LARGE_TEXT = 2**20
_MOST_QUOTES = 4096
_CONTAINERS_PER_IMAGE = 30  # an image as 28 rows is 29 lists


def parse_json(text: bytes | memoryview, limits: Limits) -> Any:
    """The value of a JSON text (RFC 8259: NaN and Infinity are no numbers).

    Raises `RequestError`: 400 for what isn't JSON or is nested more than 1,024 deep, 413 for a
    large text of more strings, lists and objects than the images allowed could need, as each costs
    some twenty times its few bytes of text.
    """
    if len(text) > _LARGE_TEXT:
        raw = bytes(text)
        if raw.count(b'"') > _MOST_QUOTES:
            raise RequestError(413, "the JSON has too many strings")
        containers = raw.count(b"[") + raw.count(b"{")
        if containers > 64 + _CONTAINERS_PER_IMAGE * limits.max_images:
            raise RequestError(413, f"the JSON has {containers} lists and objects, too many")
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        reason = "it is nested too deeply" if "depth" in error.msg else error.msg
        place = f"line {error.lineno}, column {error.colno}"
        raise RequestError(400, f"the body isn't valid JSON: {reason} ({place})") from None


def may_hold_booleans(text: bytes | memoryview) -> bool:
    """Whether a JSON text has a literal true or false anywhere; false means there is none."""
    raw = bytes(text)
    return b"true" in raw or b"false" in raw


def flattened(data: list[Any], shape: tuple[int, ...], name: str) -> list[Any]:
    """The elements of `data`, row-major: flat already, or nested exactly as `shape` says.

    Raises `RequestError` 400 when it is nested otherwise or its length isn't that of `shape`.
    """
    count = math.prod(shape)
    if not data or type(data[0]) is not list:
        if len(data) != count:
            raise _wrong_count(name, len(data), shape, count)
        return data
    if len(data) != shape[0]:
        raise _wrong_count(name, len(data), shape, shape[0])
    for width in shape[1:]:
        for row in data:
            if type(row) is not list or len(row) != width:
                raise RequestError(400, f"{name} isn't nested as its shape {list(shape)} says")
        data = data[0] if len(data) == 1 else list(chain.from_iterable(data))
    return data


def uint8_bytes(numbers: list[Any], name: str, *, check_booleans: bool) -> bytes:
    """Whole numbers from 0 to 255, one byte each; 7.0 counts as 7.

    `check_booleans` may be false only where the text had none (see `may_hold_booleans`).
    Raises `RequestError` 400 that names the first number which isn't one.
    """
    if not (check_booleans and bool in set(map(type, numbers))):
        try:
            return bytes(numbers)
        except (TypeError, ValueError):
            pass  # a float, a number out of range, or no number: told apart below
    values = _float64(numbers, name)
    wrong = ~((values >= 0) & (values <= 255) & (values == np.floor(values)))
    if wrong.any():
        index = int(wrong.argmax())
        raise RequestError(
            400,
            f"{name}[{index}] is {quoted(numbers[index])}; pixels are whole numbers from 0 to 255",
        )
    return values.astype(np.uint8).tobytes()


def float32_array(numbers: list[Any], name: str, *, check_booleans: bool) -> NDArray[np.float32]:
    """Numbers in [0, 1] as a writable float32 array `[len(numbers)]`.

    Raises `RequestError` 400 that names the first number which isn't one.
    """
    if not (check_booleans and bool in set(map(type, numbers))):
        try:
            packed = bytearray(struct.pack(f"{len(numbers)}f", *numbers))
        except (struct.error, OverflowError, TypeError):
            pass  # told apart below
        else:
            array = np.frombuffer(packed, np.float32)
            check_unit_range(array, name)
            return array
    values = _float64(numbers, name)
    check_unit_range(values, name)
    return values.astype(np.float32)


def check_unit_range(values: NDArray[np.float32] | NDArray[np.float64], name: str) -> None:
    """Raise `RequestError` 400 that names the first value outside [0, 1]; NaN is outside."""
    # min and max carry a NaN through, and no comparison with one is true
    if values.size == 0 or (values.min() >= 0 and values.max() <= 1):
        return
    flat = values.reshape(-1)
    index = int((~((flat >= 0) & (flat <= 1))).argmax())
    raise RequestError(
        400, f"{name}[{index}] is {float(flat[index]):.6g}; floats lie between 0 and 1"
    )


def _float64(numbers: list[Any], name: str) -> NDArray[np.float64]:
    if not set(map(type, numbers)) <= {int, float}:
        index = next(i for i, number in enumerate(numbers) if type(number) not in (int, float))
        raise RequestError(400, f"{name}[{index}] is {quoted(numbers[index])}, not a number")
    return np.array(numbers, np.float64)


def _wrong_count(name: str, found: int, shape: tuple[int, ...], wanted: int) -> RequestError:
    return RequestError(
        400, f"{name} has {found} elements where its shape {list(shape)} needs {wanted}"
    )
