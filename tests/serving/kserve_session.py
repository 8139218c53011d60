"""Run by an interpreter that has the KServe SDK: asks a service on a port, prints what came back.

The SDK's own requirements don't agree with this project's, so it lives in another environment; see
kserve.txt.
"""

from __future__ import annotations

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig


async def session(url: str) -> dict[str, object]:
    """Every call of the client, with its defaults: health, JSON and binary inference."""
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    images = np.arange(2 * 784, dtype=np.uint8).reshape(2, 784)
    found: dict[str, object] = {
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "model ready": await client.is_model_ready(url, "fmlp"),
    }
    for binary in (False, True):
        tensor = InferInput("images", [2, 784], "UINT8")
        tensor.set_data_from_numpy(images, binary_data=binary)
        answer = await client.infer(url, InferRequest("fmlp", [tensor]), model_name="fmlp")
        outputs = {output.name: output.as_numpy().tolist() for output in answer.outputs}
        found["binary" if binary else "json"] = outputs
    try:
        await client.infer(url, {"inputs": []}, model_name="fmlp")
    except Exception as error:
        found["refused"] = str(error)
    await client.close()
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(session(sys.argv[1]))))
