"""The Open Inference Protocol: what clients send is read, what is wrong is named, answers parse."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from distributed_fmlp.serving.compression import compress_response
from distributed_fmlp.serving.errors import RequestError
from distributed_fmlp.serving.limits import Limits
from distributed_fmlp.serving.protocol import (
    JSON_LENGTH_HEADER,
    OUTPUTS,
    InferRequest,
    OutputRequest,
    Prediction,
    decode_infer,
    encode_infer,
    parse_json_length,
)

LIMITS = Limits()
NAMES = [f"class {label} é" for label in range(10)]
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 784)).astype(np.uint8)


def tensor(**changes: Any) -> dict[str, Any]:
    base = {"name": "images", "shape": [3, 784], "datatype": "UINT8", "data": PIXELS.tolist()}
    return {key: value for key, value in {**base, **changes}.items() if value is not ...}


def request(*inputs: dict[str, Any], **others: Any) -> bytes:
    return json.dumps({"inputs": list(inputs) or [tensor()], **others}).encode()


def decode(body: bytes, json_length: int | None = None, limits: Limits = LIMITS) -> InferRequest:
    return decode_infer(body, json_length=json_length, limits=limits)


def refusal(body: bytes, json_length: int | None = None, limits: Limits = LIMITS) -> RequestError:
    with pytest.raises(RequestError) as caught:
        decode(body, json_length, limits)
    assert json.loads(caught.value.body()) == {"error": caught.value.message}
    return caught.value


def binary(data: bytes, **changes: Any) -> tuple[bytes, int]:
    text = request(tensor(data=..., parameters={"binary_data_size": len(data)}, **changes))
    return text + data, len(text)


def prediction(count: int) -> Prediction:
    scores = np.random.default_rng(1).random((count, 10)).astype(np.float32)
    return Prediction(scores, scores.argmax(1).astype(np.int64))


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        ([3, 784], PIXELS.tolist()),
        ([3, 784], PIXELS.reshape(-1).tolist()),
        ([3, 28, 28], PIXELS.reshape(3, 28, 28).tolist()),
        ([3, 28, 28], PIXELS.reshape(-1).tolist()),
        ([3, 784], PIXELS.astype(float).tolist()),
    ],
    ids=["nested", "flat", "nested 28x28", "flat 28x28", "whole floats"],
)
def test_json_pixels_come_out_as_they_went_in(shape: list[int], data: list[Any]) -> None:
    decoded = decode(request(tensor(shape=shape, data=data)))
    assert decoded.images.dtype == np.uint8
    assert decoded.images.flags.c_contiguous
    np.testing.assert_array_equal(decoded.images, PIXELS)
    assert decoded.outputs == tuple(OutputRequest(name, False) for name in OUTPUTS)


def test_json_floats_come_out_as_float32() -> None:
    values = (PIXELS / 255).astype(np.float32)
    decoded = decode(request(tensor(datatype="FP32", data=values.tolist())))
    assert decoded.images.dtype == np.float32
    np.testing.assert_array_equal(decoded.images, values)


@given(
    hnp.arrays(np.uint8, st.tuples(st.integers(1, 3), st.just(784))),
    st.booleans(),
    st.booleans(),
    st.text(max_size=20),
)
@settings(max_examples=60, deadline=None)
def test_what_tritonclient_sends_is_read_back(
    pixels: np.ndarray, as_binary: bool, floats: bool, identifier: str
) -> None:
    client = pytest.importorskip("tritonclient.http")
    array = (pixels / np.float32(255)).astype(np.float32) if floats else pixels
    tensor_in = client.InferInput("images", list(array.shape), "FP32" if floats else "UINT8")
    tensor_in.set_data_from_numpy(array, binary_data=as_binary)
    body, length = client.InferenceServerClient.generate_request_body(
        [tensor_in], request_id=identifier
    )
    decoded = decode(body, length)
    np.testing.assert_array_equal(decoded.images, array)
    assert decoded.images.flags.aligned
    assert decoded.id == (identifier or None)
    assert all(output.binary for output in decoded.outputs)  # its default when none is named


@pytest.mark.parametrize("kinds", [(True,) * 3, (False,) * 3, (False, True, False)])
@pytest.mark.parametrize("encoding", [None, "gzip", "deflate"])
def test_tritonclient_reads_the_answer(kinds: tuple[bool, ...], encoding: str | None) -> None:
    client = pytest.importorskip("tritonclient.http")
    wanted = [
        client.InferRequestedOutput(name, binary_data=kind)
        for name, kind in zip(reversed(OUTPUTS), kinds, strict=True)
    ]
    tensor_in = client.InferInput("images", [3, 784], "UINT8")
    tensor_in.set_data_from_numpy(PIXELS)
    body, length = client.InferenceServerClient.generate_request_body([tensor_in], outputs=wanted)
    decoded = decode(body, length)
    assert [(item.name, item.binary) for item in decoded.outputs] == list(
        zip(reversed(OUTPUTS), kinds, strict=True)
    )
    said = prediction(40)
    answer, headers = encode_infer(
        decoded, said, NAMES, model_name="fmlp", model_version="abc", parameters={"seed": 1}
    )
    answer, used = compress_response(answer, encoding)
    assert used == encoding
    header_length = parse_json_length(headers.get(JSON_LENGTH_HEADER))
    result = client.InferenceServerClient.parse_response_body(
        answer, header_length=header_length, content_encoding=used
    )
    np.testing.assert_array_equal(result.as_numpy("probabilities"), said.probabilities)
    np.testing.assert_array_equal(result.as_numpy("label"), said.labels)
    texts = [
        item.decode() if isinstance(item, bytes) else item
        for item in result.as_numpy("class_name").tolist()
    ]
    assert texts == [NAMES[label] for label in said.labels]
    assert result.get_response()["parameters"] == {"seed": 1}


def test_answer_echoes_the_id_only_when_one_was_given() -> None:
    for identifier in (None, "", "7f"):
        decoded = decode(request(**({} if identifier is None else {"id": identifier})))
        answer, headers = encode_infer(
            decoded, prediction(3), NAMES, model_name="fmlp", model_version="1"
        )
        assert json.loads(answer).get("id") == identifier
        assert headers == {"Content-Type": "application/json"}
        assert "parameters" not in json.loads(answer)


def test_output_kind_follows_the_request_unless_the_output_says_otherwise() -> None:
    body = request(
        parameters={"binary_data_output": True},
        outputs=[{"name": "label"}, {"name": "class_name", "parameters": {"binary_data": False}}],
    )
    assert decode(body).outputs == (
        OutputRequest("label", True),
        OutputRequest("class_name", False),
    )


def test_null_members_count_as_missing() -> None:
    body = request(tensor(parameters=None), id=None, outputs=None, parameters=None)
    assert decode(body).id is None


def with_pixel(value: str) -> bytes:
    """A request with one image whose pixel 100 is `value`, put into the JSON as it stands."""
    marked = request(tensor(shape=[1, 784], data=[0] * 100 + ["here"] + [0] * 683))
    return marked.replace(b'"here"', value.encode())


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("256", "256"),
        ("-1", "-1"),
        ("1.5", "1.5"),
        ("true", "true"),
        ("false", "false"),
        ('"7"', "'7'"),
        ("null", "null"),
        ("[1]", "a list"),
        ("{}", "an object"),
        ("1e300", "1e+300"),
        ("99999999999999999999", "1e+20"),
        ("-9223372036854775808", "-9223372036854775808"),
    ],
)
def test_a_wrong_pixel_is_named(value: str, said: str) -> None:
    for body in (with_pixel(value), with_pixel(value).replace(b"UINT8", b"FP32")):
        error = refusal(body)
        assert error.status == 400
        if body.find(b"UINT8") > 0:
            assert f"images.data[100] is {said}" in error.message
        else:
            assert "images.data[100] is" in error.message


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1" * 5000, "1e999", "0x1", ""])
def test_what_json_has_no_number_for_is_refused(value: str) -> None:
    assert "isn't valid JSON" in refusal(with_pixel(value)).message


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.001, 1.001])
def test_binary_floats_must_lie_between_0_and_1(value: float) -> None:
    array = np.zeros((3, 784), np.float32)
    array[1, 5] = value
    assert "images[789]" in refusal(*binary(array.tobytes(), datatype="FP32")).message


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "isn't valid JSON"),
        (b"[]", "JSON object"),
        (b'"x"', "JSON object"),
        (b"\xff\xfe", "isn't valid JSON"),
        (b"{}", "needs inputs"),
        (b'{"inputs": []}', "needs inputs"),
        (b'{"inputs": [1]}', "must be an object"),
        (request(tensor(name="pixels")), "unknown input 'pixels'"),
        (request(tensor(name=["images"])), "unknown input a list"),
        (request(tensor(), tensor()), "2 times"),
        (request(tensor(), tensor(name="mask")), "unknown input 'mask'"),
        (request(tensor(datatype="INT64")), "'INT64'"),
        (request(tensor(datatype=["UINT8"])), "datatype a list"),
        (request(tensor(shape=...)), "needs the shape"),
        (request(tensor(shape=[784])), "needs the shape"),
        (request(tensor(shape=[3, 783])), "[3, 783]"),
        (request(tensor(shape=[3, 28, 29])), "[3, 28, 29]"),
        (request(tensor(shape=["3", 784])), "whole numbers"),
        (request(tensor(shape=[True, 784])), "whole numbers"),
        (request(tensor(shape=[3.0, 784])), "whole numbers"),
        (request(tensor(shape=[-3, 784])), "negative"),
        (request(tensor(shape=[0, 784], data=[])), "no images"),
        (request(tensor(shape=[2, 784])), "3 elements where"),
        (request(tensor(data=PIXELS[:2].reshape(-1).tolist())), "1568 elements where"),
        (request(tensor(shape=[3, 28, 28])), "isn't nested"),
        (request(tensor(data=[PIXELS[0].tolist(), 1, 2])), "isn't nested"),
        (request(tensor(data=...)), "has no data"),
        (request(tensor(data="AAAA")), "not a list"),
        (request(tensor(parameters=[])), "must be an object"),
        (request(tensor(parameters={"shared_memory_region": "x"})), "shared memory"),
        (request(tensor(parameters={"binary_data_size": 2352})), "both data"),
        (request(tensor(data=..., parameters={"binary_data_size": 2352})), "header"),
        (request(id=7), "id must be"),
        (request(id="x" * 2000), "id must be"),
        (request(parameters=[1]), "must be an object"),
        (request(parameters={"binary_data_output": 1}), "must be a boolean"),
        (request(outputs={"name": "label"}), "must be a list"),
        (request(outputs=["label"]), "must be a list"),
        (request(outputs=[{"name": "logits"}]), "unknown output 'logits'"),
        (request(outputs=[{"name": {}}]), "unknown output an object"),
        (request(outputs=[{"name": "label"}, {"name": "label"}]), "twice"),
        (request(outputs=[{"name": "label", "parameters": {"binary_data": "yes"}}]), "boolean"),
        (request(outputs=[{"name": "label", "parameters": {"classification": 3}}]), "classific"),
        (b'{"id":' + b"[" * 100_000, "nested too deeply"),
        (b'{"inputs":[{"name":"images","shape":[1,784],"datatype":"UINT8","data":'
         + b"[" * 900 + b"]" * 900 + b"}]}", "isn't nested"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_refused_by_name(body: bytes, said: str) -> None:
    error = refusal(body)
    assert error.status == 400
    assert said in error.message
    assert len(error.message) < 250


def test_binary_data_must_have_exactly_the_length_declared() -> None:
    body, length = binary(PIXELS.tobytes())
    np.testing.assert_array_equal(decode(body, length).images, PIXELS)
    assert "truncated" in refusal(body[:-1], length).message
    assert "too long" in refusal(body + b"\0", length).message
    assert "takes 2352 bytes" in refusal(*binary(PIXELS.tobytes()[:-1])).message
    assert "takes 9408 bytes" in refusal(*binary(PIXELS.tobytes(), datatype="FP32")).message
    for size in (-1, 2352.0, "2352", True):
        text = request(tensor(data=..., parameters={"binary_data_size": size}))
        assert refusal(text + PIXELS.tobytes(), len(text)).status == 400
    assert "but the body has" in refusal(body, len(body) + 1).message
    assert "no input is binary" in refusal(request() + b"xx", len(request())).message


def test_large_binary_pixels_are_a_view_of_the_body() -> None:
    body, length = binary(PIXELS.tobytes())
    images = decode(body, length).images
    assert np.shares_memory(images, np.frombuffer(body, np.uint8))


@pytest.mark.parametrize("offset", range(4))
def test_binary_floats_are_aligned_wherever_the_json_ends(offset: int) -> None:
    values = (PIXELS / np.float32(255)).astype(np.float32)
    text = request(tensor(data=..., datatype="FP32", parameters={"binary_data_size": 9408}))
    text += b" " * offset
    images = decode(text + values.tobytes(), len(text)).images
    assert images.flags.aligned and images.flags.c_contiguous
    np.testing.assert_array_equal(images, values)


def test_past_a_limit_the_answer_is_413() -> None:
    assert refusal(request(), limits=Limits(max_images=2)).status == 413
    assert refusal(request(tensor(shape=[2**63, 784]))).status == 413
    assert refusal(request(), limits=Limits(max_body_bytes=100)).status == 413
    for costly in (b"[],[],", b"{},{},", b'"a","b",'):
        assert refusal(b'{"inputs":[' + costly * 300_000 + b"0]}").status == 413


@pytest.mark.parametrize("value", ["-1", "1.0", "", "0x10", "٣", "9" * 13, " 5", "5,5"])
def test_json_length_must_be_a_plain_number(value: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_json_length(value)
    assert caught.value.status == 400


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
SHAPES = st.lists(st.sampled_from([0, 1, 2, 28, 784, -1, 2**63, 1.0]), max_size=4)
DATA = st.builds(lambda item, count: [item] * count, JSON_VALUES, st.sampled_from([0, 1, 784]))
TENSORS = st.fixed_dictionaries(
    {"name": st.just("images")},
    optional={
        "shape": SHAPES | st.sampled_from([[1, 784], [1, 28, 28]]) | JSON_VALUES,
        "datatype": st.sampled_from(["UINT8", "FP32"]) | JSON_VALUES,
        "data": DATA | JSON_VALUES,
        "parameters": st.fixed_dictionaries({"binary_data_size": st.just(784)}) | JSON_VALUES,
    },
)
REQUESTS = st.fixed_dictionaries(
    {"inputs": st.lists(TENSORS, min_size=1, max_size=2) | JSON_VALUES},
    optional={
        "id": JSON_VALUES,
        "outputs": st.lists(st.fixed_dictionaries({"name": st.sampled_from(OUTPUTS)}))
        | JSON_VALUES,
        "parameters": JSON_VALUES,
    },
)


@given(REQUESTS | JSON_VALUES, st.binary(max_size=30), st.integers(-3, 3) | st.none())
@settings(max_examples=600, deadline=None)
def test_any_json_is_decoded_or_refused(value: Any, tail: bytes, shift: int | None) -> None:
    text = json.dumps(value).encode()
    survives(text + tail, None if shift is None else len(text) + shift)


@given(st.binary(max_size=200), st.integers(-5, 300) | st.none())
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_decoded_or_refused(body: bytes, length: int | None) -> None:
    survives(body, length)


@given(st.integers(0, 3000), st.integers(0, 255), st.booleans())
@settings(max_examples=300, deadline=None)
def test_a_damaged_request_is_decoded_or_refused(place: int, byte: int, cut: bool) -> None:
    whole, length = binary(PIXELS.tobytes())
    damaged = bytearray(whole)
    damaged[place % len(whole)] = byte
    survives(bytes(damaged[:place] if cut else damaged), length)


def survives(body: bytes, length: int | None) -> None:
    try:
        images = decode(body, length).images
    except RequestError as error:
        assert error.status in (400, 413)
        assert error.message.isprintable() and len(error.message) < 300
        return
    assert images.shape[1:] == (784,) and len(images) >= 1
    assert images.dtype in (np.uint8, np.float32)
    assert images.flags.c_contiguous


UNIT = st.floats(0, 1, width=32)


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(10)), elements=UNIT),
    st.lists(st.tuples(st.sampled_from(OUTPUTS), st.booleans()), unique_by=lambda item: item[0]),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_every_answer_reads_back_as_the_arrays_it_was_made_of(
    scores: np.ndarray, wanted: list[tuple[str, bool]]
) -> None:
    outputs = tuple(OutputRequest(name, kind) for name, kind in wanted)
    said = Prediction(scores, scores.argmax(1).astype(np.int64))
    body, headers = encode_infer(
        InferRequest(None, PIXELS, outputs, {}), said, NAMES, model_name="m", model_version="v"
    )
    length = parse_json_length(headers.get(JSON_LENGTH_HEADER)) or len(body)
    rest, answer = body[length:], json.loads(body[:length])
    assert [item["name"] for item in answer["outputs"]] == [name for name, _ in wanted]
    for item, (name, kind) in zip(answer["outputs"], wanted, strict=True):
        assert ("data" in item) is not kind
        size = item["parameters"]["binary_data_size"] if kind else 0
        raw, rest = rest[:size], rest[size:]
        if name == "probabilities":
            assert (item["datatype"], item["shape"]) == ("FP32", [len(scores), 10])
            got = np.frombuffer(raw, "<f4") if kind else np.array(item["data"], np.float32)
            np.testing.assert_array_equal(got.reshape(-1, 10), scores)
        elif name == "label":
            assert (item["datatype"], item["shape"]) == ("INT64", [len(scores)])
            got = np.frombuffer(raw, "<i8") if kind else np.array(item["data"])
            np.testing.assert_array_equal(got, said.labels)
        else:
            assert (item["datatype"], item["shape"]) == ("BYTES", [len(scores)])
            assert (texts_of(raw) if kind else item["data"]) == [NAMES[i] for i in said.labels]
    assert not rest


def texts_of(raw: bytes) -> list[str]:
    texts = []
    while raw:
        (size,) = struct.unpack_from("<I", raw)
        texts.append(raw[4 : 4 + size].decode())
        raw = raw[4 + size :]
    return texts
