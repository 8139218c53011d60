"""Public clients of the protocol, unmodified, against the application behind a real uvicorn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from distributed_fmlp.serving.protocol import OUTPUTS
from tests.serving.kserve_sdk import IMAGES, check_kserve, kserve_answers
from tests.serving.stand_in_engine import (
    CLASS_NAMES,
    MODEL,
    StandInEngine,
    expected,
    listening,
    service,
)


@pytest.fixture(scope="module")
def engine() -> StandInEngine:
    return StandInEngine()


@pytest.fixture(scope="module")
def port(engine: StandInEngine) -> Iterator[int]:
    with listening(service(engine)) as port:
        yield port


@pytest.fixture
def triton(port: int) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(f"127.0.0.1:{port}") as client:
        yield client


def test_triton_sees_health_and_metadata(triton: InferenceServerClient) -> None:
    assert triton.is_server_live() and triton.is_server_ready()
    assert triton.is_model_ready("fmlp") and triton.is_model_ready("fmlp", MODEL.version)
    assert not triton.is_model_ready("fmlp", "other") and not triton.is_model_ready("other")
    assert "binary_tensor_data" in triton.get_server_metadata()["extensions"]
    assert triton.get_model_metadata("fmlp", MODEL.version)["versions"] == [MODEL.version]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("datatype", ["UINT8", "FP32"])
@pytest.mark.parametrize("shape", [(2, 784), (2, 28, 28)])
@pytest.mark.parametrize("named", [True, False])
def test_triton_infers(
    triton: InferenceServerClient, binary: bool, datatype: str, shape: tuple[int, ...], named: bool
) -> None:
    images: Any = IMAGES if datatype == "UINT8" else IMAGES.astype(np.float32) / 255
    tensor = InferInput("images", list(shape), datatype)
    tensor.set_data_from_numpy(images.reshape(shape), binary_data=binary)
    outputs = [InferRequestedOutput(name, binary_data=binary) for name in OUTPUTS]
    answer = triton.infer("fmlp", [tensor], request_id="7", outputs=outputs if named else None)
    said = answer.get_response()
    assert (said["id"], said["model_version"]) == ("7", MODEL.version)
    rows = expected(images)
    assert np.allclose(answer.as_numpy("probabilities"), rows, atol=1e-6)
    assert answer.as_numpy("label").tolist() == rows.argmax(1).tolist()
    names = [name.decode() if isinstance(name, bytes) else name
             for name in answer.as_numpy("class_name").tolist()]  # fmt: skip
    assert names == [CLASS_NAMES[label] for label in rows.argmax(1)]


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_triton_compresses_both_ways(triton: InferenceServerClient, encoding: str) -> None:
    images = np.repeat(IMAGES, 100, axis=0)
    tensor = InferInput("images", [200, 784], "UINT8")
    tensor.set_data_from_numpy(images)
    answer = triton.infer(
        "fmlp", [tensor],
        request_compression_algorithm=encoding, response_compression_algorithm=encoding,
    )  # fmt: skip
    assert np.allclose(answer.as_numpy("probabilities"), expected(images), atol=1e-6)


def test_triton_is_told_what_was_wrong(triton: InferenceServerClient) -> None:
    tensor = InferInput("images", [1, 783], "UINT8")
    tensor.set_data_from_numpy(np.zeros((1, 783), np.uint8))
    with pytest.raises(InferenceServerException, match=r"\[400\].*\[1, 783\]"):
        triton.infer("fmlp", [tensor])
    with pytest.raises(InferenceServerException, match=r"\[404\].*'other'"):
        triton.infer("other", [tensor])
    with pytest.raises(InferenceServerException, match=r"\[404\].*'old'"):
        triton.infer("fmlp", [tensor], model_version="old")


@pytest.mark.kserve
def test_the_kserve_sdk_works(port: int) -> None:
    check_kserve(kserve_answers(f"http://127.0.0.1:{port}"), expected(IMAGES))


def test_requests_as_the_kserve_sdk_writes_them_are_answered(port: int) -> None:
    head = {"id": "4b1c", "model_name": "fmlp", "parameters": {}}
    tensor = {"name": "images", "shape": [2, 784], "datatype": "UINT8"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        live, ready = client.get("/v2/health/live").json(), client.get("/v2/health/ready").json()
        plain = client.post(
            "/v2/models/fmlp/infer",
            json={**head, "inputs": [{**tensor, "data": IMAGES.reshape(-1).tolist()}]},
        )
        sized = {**tensor, "parameters": {"binary_data_size": IMAGES.nbytes}}
        text = json.dumps({**head, "inputs": [sized]}).encode()
        binary = client.post(
            "/v2/models/fmlp/infer",
            content=text + IMAGES.tobytes(),
            headers={
                "content-type": "application/octet-stream",
                "inference-header-content-length": str(len(text)),
            },
        )
    assert live["live"] is True and ready["ready"] is True
    assert plain.json() == binary.json()
    assert plain.json()["id"] == "4b1c"
