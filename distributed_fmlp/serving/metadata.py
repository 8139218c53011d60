"""Bodies of the protocol's other calls: what the server and the model are, live and ready.

All are `application/json`. Protocol: https://github.com/kserve/open-inference-protocol
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from distributed_fmlp.serving.protocol import CLASS_NAME, INPUT, LABEL, PROBABILITIES
from distributed_fmlp.serving.tensor_data import PIXELS

EXTENSIONS = ("binary_tensor_data",)
PLATFORM = "pytorch"


def server_metadata(name: str, version: str) -> bytes:
    """`GET /v2`."""
    return orjson.dumps({"name": name, "version": version, "extensions": EXTENSIONS})


def model_metadata(
    name: str,
    versions: Sequence[str],
    *,
    classes: int = 10,
    parameters: Mapping[str, str | int | float | bool] | None = None,
) -> bytes:
    """`GET /v2/models/{name}`; `parameters` says where the served weights come from.

    The protocol has one entry a tensor, so the other forms of the input (`[-1, 28, 28]`, and FP32
    within [0, 1]) are taken without being listed.
    """
    body: dict[str, Any] = {
        "name": name,
        "versions": list(versions),
        "platform": PLATFORM,
        "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, PIXELS]}],
        "outputs": [
            {"name": PROBABILITIES, "datatype": "FP32", "shape": [-1, classes]},
            {"name": LABEL, "datatype": "INT64", "shape": [-1]},
            {"name": CLASS_NAME, "datatype": "BYTES", "shape": [-1]},
        ],
    }
    if parameters:
        body["parameters"] = dict(parameters)
    return orjson.dumps(body)


def server_health(*, live: bool, ready: bool) -> bytes:
    """`GET /v2/health/live` and `/ready`: both keys in both, as some clients read either."""
    return orjson.dumps({"live": live, "ready": ready})


def model_health(name: str, *, ready: bool) -> bytes:
    """`GET /v2/models/{name}/ready`."""
    return orjson.dumps({"name": name, "ready": ready})
