"""Public clients of the protocol, unmodified, against the application behind a real uvicorn."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from distributed_fmlp.serving.protocol import OUTPUTS
from tests.serving.stand_in_engine import (
    CLASS_NAMES,
    MODEL,
    StandInEngine,
    expected,
    listening,
    service,
)

IMAGES = np.arange(2 * 784, dtype=np.uint8).reshape(2, 784)  # what kserve_session.py sends


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


def _kserve_python() -> str | None:
    """The interpreter that has the KServe SDK: this one, or the one that a variable names."""
    if importlib.util.find_spec("kserve"):
        return sys.executable
    return os.environ.get("FMLP_KSERVE_PYTHON")


def test_the_kserve_sdk_works(port: int) -> None:
    python = _kserve_python()
    if python is None:
        pytest.skip("no KServe SDK here; FMLP_KSERVE_PYTHON may name an interpreter that has it")
    script = Path(__file__).with_name("kserve_session.py")
    ran = subprocess.run(
        [python, str(script), f"http://127.0.0.1:{port}"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    _check_kserve(json.loads(ran.stdout.splitlines()[-1]))


def _check_kserve(found: dict[str, Any]) -> None:
    assert (found["live"], found["ready"], found["model ready"]) == (True, True, True)
    for form in ("json", "binary"):
        outputs = found[form]  # the SDK drops the version
        assert np.allclose(outputs["probabilities"], expected(IMAGES), atol=1e-6)
        assert outputs["label"] == expected(IMAGES).argmax(1).tolist()
    assert "inputs" in found["refused"] and "400" in found["refused"]


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
