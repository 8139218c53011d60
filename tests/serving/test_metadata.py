"""Metadata and health bodies have the keys that the protocol and its clients need."""

from __future__ import annotations

import json

from distributed_fmlp.serving import metadata
from distributed_fmlp.serving.protocol import OUTPUTS


def test_metadata_has_what_the_protocol_asks() -> None:
    server = json.loads(metadata.server_metadata("fmlp", "1.0"))
    assert server == {"name": "fmlp", "version": "1.0", "extensions": ["binary_tensor_data"]}
    model = json.loads(metadata.model_metadata("fmlp", ["abc"]))
    assert set(model) == {"name", "versions", "platform", "inputs", "outputs"}
    assert [item["name"] for item in model["outputs"]] == list(OUTPUTS)
    for item in model["inputs"] + model["outputs"]:
        assert set(item) == {"name", "datatype", "shape"} and item["shape"][0] == -1
    assert json.loads(metadata.server_health(live=True, ready=False)) == {
        "live": True,
        "ready": False,
    }
    assert json.loads(metadata.model_health("fmlp", ready=True)) == {"name": "fmlp", "ready": True}
