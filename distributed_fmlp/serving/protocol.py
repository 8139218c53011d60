"""Open Inference Protocol v2 over REST: inference requests to arrays, and arrays to answers.

With the binary tensor extension: a body is a JSON text, then raw little-endian tensors in the order
of the JSON; the header `Inference-Header-Content-Length` says where the JSON ends. Protocol:
https://github.com/kserve/open-inference-protocol and, for the extension,
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from distributed_fmlp.serving.errors import RequestError, quoted
from distributed_fmlp.serving.limits import Limits
from distributed_fmlp.serving.tensor_data import (
    PIXELS,
    SIDE,
    Images,
    check_unit_range,
    flattened,
    float32_array,
    may_hold_booleans,
    parse_json,
    uint8_bytes,
)

INPUT = "images"
PROBABILITIES, LABEL, CLASS_NAME = "probabilities", "label", "class_name"
OUTPUTS = (PROBABILITIES, LABEL, CLASS_NAME)
JSON_LENGTH_HEADER = "Inference-Header-Content-Length"

_ITEM_BYTES = {"UINT8": 1, "FP32": 4}
_LONGEST_ID = 1024
_MOST_DIGITS = 12
_SHAPES = "[N, 784] or [N, 28, 28]"


@dataclass(frozen=True, slots=True)
class OutputRequest:
    """One output that was asked for, and whether it goes out as raw bytes after the JSON."""

    name: str
    binary: bool


@dataclass(frozen=True, slots=True)
class InferRequest:
    """An inference request, decoded and checked.

    `images` is C-contiguous `[N, 784]`, N at least 1: uint8, or float32 within [0, 1]. It may be a
    read-only view of the body.
    """

    id: str | None
    images: Images
    outputs: tuple[OutputRequest, ...]
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says of N images: `probabilities` float32 [N, 10], `labels` int64 [N]."""

    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]


_ALL_AS_JSON = tuple(OutputRequest(name, False) for name in OUTPUTS)


def parse_json_length(value: str | None) -> int | None:
    """The value of `Inference-Header-Content-Length`, None where the header is missing.

    Raises `RequestError` 400 when it isn't a plain decimal number.
    """
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) <= _MOST_DIGITS):
        raise RequestError(400, f"the header {JSON_LENGTH_HEADER} is {quoted(value)}, not a length")
    return int(value)


def decode_infer(body: bytes, *, json_length: int | None, limits: Limits) -> InferRequest:
    """Read the body (already decompressed) of `POST …/infer`.

    `json_length` comes from `parse_json_length`. Raises `RequestError`: 413 past a limit, 400 for
    everything else that is wrong, naming it.
    """
    limits.check_body(len(body))
    if json_length is not None and not 0 <= json_length <= len(body):
        raise RequestError(
            400, f"{JSON_LENGTH_HEADER} is {json_length} but the body has {len(body)} bytes"
        )
    text: bytes | memoryview = body if json_length is None else memoryview(body)[:json_length]
    request = parse_json(text, limits)
    if type(request) is not dict:
        raise RequestError(400, "the request must be a JSON object")
    identifier = request.get("id")
    if identifier is not None and (type(identifier) is not str or len(identifier) > _LONGEST_ID):
        raise RequestError(400, f"id must be a string of at most {_LONGEST_ID} characters")
    parameters = _parameters(request, "the request")
    outputs = _requested_outputs(request.get("outputs"), parameters)
    tensor = _only_input(request.get("inputs"))
    images = _images(tensor, body, text, json_length, limits)
    return InferRequest(identifier, images, outputs, parameters)


def encode_infer(
    request: InferRequest,
    prediction: Prediction,
    class_names: Sequence[str],
    *,
    model_name: str,
    model_version: str,
    parameters: Mapping[str, str | int | float | bool] | None = None,
) -> tuple[bytes, dict[str, str]]:
    """The answer's body and headers, with the outputs asked for in the order asked for.

    `class_names` are the ten names by label. Tensors in JSON are flat and row-major.
    """
    answer: dict[str, Any] = {"model_name": model_name, "model_version": model_version}
    if request.id is not None:
        answer["id"] = request.id
    if parameters:
        answer["parameters"] = dict(parameters)
    tensors: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for output in request.outputs:
        tensor = _tensor_head(output.name, prediction)
        if output.binary:
            raw.append(_output_bytes(output.name, prediction, class_names))
            tensor["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            tensor["data"] = _output_data(output.name, prediction, class_names)
        tensors.append(tensor)
    answer["outputs"] = tensors
    text = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    if not raw:
        return text, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", JSON_LENGTH_HEADER: str(len(text))}
    return b"".join((text, *raw)), headers


def _images(
    tensor: Mapping[str, Any],
    body: bytes,
    text: bytes | memoryview,
    json_length: int | None,
    limits: Limits,
) -> Images:
    datatype = tensor.get("datatype")
    if type(datatype) is not str or datatype not in _ITEM_BYTES:
        raise RequestError(
            400, f"{INPUT} has the datatype {quoted(datatype)}; it must be UINT8 or FP32"
        )
    shape = _shape(tensor.get("shape"), limits)
    size = _parameters(tensor, INPUT).get("binary_data_size")
    data = tensor.get("data")
    rest = len(body) - len(text)
    if size is None:
        if type(data) is not list:
            missing = "has no data" if data is None else f"has {quoted(data)} as data, not a list"
            raise RequestError(400, f"{INPUT} {missing}")
        if rest:
            raise RequestError(400, f"{rest} bytes follow the JSON but no input is binary")
        return _from_json(data, datatype, shape, text)
    if data is not None:
        raise RequestError(400, f"{INPUT} has both data and binary_data_size")
    if json_length is None:
        raise RequestError(400, f"{INPUT} is binary but the header {JSON_LENGTH_HEADER} is missing")
    expected = shape[0] * PIXELS * _ITEM_BYTES[datatype]
    if type(size) is not int or size != expected:
        raise RequestError(
            400,
            f"{INPUT} has the binary_data_size {quoted(size)}; "
            f"{datatype} {list(shape)} takes {expected} bytes",
        )
    if rest != expected:
        wrong = "truncated" if rest < expected else "too long"
        raise RequestError(
            400, f"the binary data is {wrong}: {rest} bytes follow the JSON, not {expected}"
        )
    return _from_binary(body, datatype, shape[0], len(text))


def _from_json(
    data: list[Any], datatype: str, shape: tuple[int, ...], text: bytes | memoryview
) -> Images:
    name = f"{INPUT}.data"
    numbers = flattened(data, shape, name)
    check_booleans = may_hold_booleans(text)
    if datatype == "UINT8":
        raw = uint8_bytes(numbers, name, check_booleans=check_booleans)
        return np.frombuffer(raw, np.uint8).reshape(shape[0], PIXELS)
    return float32_array(numbers, name, check_booleans=check_booleans).reshape(shape[0], PIXELS)


def _from_binary(body: bytes, datatype: str, count: int, offset: int) -> Images:
    if datatype == "UINT8":
        pixels = np.frombuffer(body, np.uint8, count * PIXELS, offset)
        return pixels.reshape(count, PIXELS)
    values = np.frombuffer(body, np.dtype("<f4"), count * PIXELS, offset)
    # the JSON before it may have any length, so the floats may lie at any address
    values = np.require(values, np.float32, ["C", "ALIGNED"])
    check_unit_range(values, INPUT)
    return values.reshape(count, PIXELS)


def _only_input(inputs: Any) -> Mapping[str, Any]:
    if type(inputs) is not list or not inputs:
        raise RequestError(400, f"the request needs inputs: a list with the tensor {INPUT!r}")
    if not all(type(tensor) is dict for tensor in inputs):
        raise RequestError(400, "every input must be an object with name, shape and datatype")
    for tensor in inputs:
        if tensor.get("name") != INPUT:
            raise RequestError(
                400, f"unknown input {quoted(tensor.get('name'))}; the model takes {INPUT!r} alone"
            )
    if len(inputs) > 1:
        raise RequestError(400, f"the input {INPUT!r} is there {len(inputs)} times, not once")
    tensor = inputs[0]
    assert isinstance(tensor, dict)
    return tensor


def _shape(shape: Any, limits: Limits) -> tuple[int, ...]:
    if type(shape) is not list or len(shape) not in (2, 3):
        raise RequestError(400, f"{INPUT} needs the shape {_SHAPES}, a list of two or three")
    if not all(type(size) is int for size in shape):
        raise RequestError(400, f"the shape of {INPUT} must hold whole numbers only")
    if shape[1:] not in ([PIXELS], [SIDE, SIDE]):
        raise RequestError(400, f"{INPUT} has the shape {shape}; it must be {_SHAPES}")
    if shape[0] < 0:
        raise RequestError(400, f"{INPUT} has the shape {shape}; a size can't be negative")
    limits.check_images(shape[0])
    return tuple(shape)


def _parameters(owner: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    parameters = owner.get("parameters")
    if parameters is None:
        return {}
    if type(parameters) is not dict:
        raise RequestError(400, f"the parameters of {name} must be an object")
    if "shared_memory_region" in parameters:
        raise RequestError(400, f"{name} asks for shared memory, which this server doesn't have")
    return parameters


def _requested_outputs(
    requested: Any, request_parameters: Mapping[str, Any]
) -> tuple[OutputRequest, ...]:
    binary = _flag(request_parameters, "binary_data_output", False)
    if not requested and (requested is None or type(requested) is list):
        return tuple(OutputRequest(name, True) for name in OUTPUTS) if binary else _ALL_AS_JSON
    if type(requested) is not list or not all(type(output) is dict for output in requested):
        raise RequestError(400, "outputs must be a list of objects, each with a name")
    outputs: dict[str, OutputRequest] = {}
    for output in requested:
        name = output.get("name")
        if type(name) is not str or name not in OUTPUTS:
            raise RequestError(
                400, f"unknown output {quoted(name)}; the model gives {', '.join(OUTPUTS)}"
            )
        if name in outputs:
            raise RequestError(400, f"the output {name!r} is asked for twice")
        parameters = _parameters(output, name)
        if parameters.get("classification"):
            raise RequestError(400, f"{name} asks for classification strings; take {CLASS_NAME!r}")
        outputs[name] = OutputRequest(name, _flag(parameters, "binary_data", binary))
    return tuple(outputs.values())


def _flag(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise RequestError(400, f"the parameter {name} is {quoted(value)}; it must be a boolean")
    return value


def _tensor_head(name: str, prediction: Prediction) -> dict[str, Any]:
    count = len(prediction.labels)
    if name == PROBABILITIES:
        classes = prediction.probabilities.shape[1]
        return {"name": name, "shape": [count, classes], "datatype": "FP32"}
    return {"name": name, "shape": [count], "datatype": "INT64" if name == LABEL else "BYTES"}


def _output_data(name: str, prediction: Prediction, class_names: Sequence[str]) -> Any:
    if name == PROBABILITIES:
        return np.ascontiguousarray(prediction.probabilities, np.float32).reshape(-1)
    labels = prediction.labels.tolist()
    return labels if name == LABEL else [class_names[label] for label in labels]


def _output_bytes(name: str, prediction: Prediction, class_names: Sequence[str]) -> bytes:
    if name == PROBABILITIES:
        return prediction.probabilities.astype("<f4", copy=False).tobytes()
    if name == LABEL:
        return prediction.labels.astype("<i8", copy=False).tobytes()
    encoded = [_length_prefixed(class_name) for class_name in class_names]
    return b"".join([encoded[label] for label in prediction.labels.tolist()])


def _length_prefixed(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<I", len(raw)) + raw
