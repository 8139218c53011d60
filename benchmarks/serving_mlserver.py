"""A rival: an MLServer runtime with its adaptive batching, Open Inference Protocol as JSON.

`python serving_mlserver.py PORT DIRECTORY` writes its settings to the directory and starts it.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from serving_network import BATCH_SIZE, BATCH_WAIT_SECONDS, PIXELS, load_network


class Classifier(MLModel):
    """UINT8 `[N, 784]` to FP32 `[N, 10]`."""

    async def load(self) -> bool:
        """Load the network in the worker."""
        self._network = load_network()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Probabilities of a batch."""
        images = NumpyCodec.decode_input(payload.inputs[0]).reshape(-1, PIXELS)
        probabilities, _ = self._network(images)
        outputs = [NumpyCodec.encode_output("probabilities", probabilities)]
        return InferenceResponse(model_name=self.name, outputs=outputs)


def _write_settings(directory: Path, port: int) -> None:
    free = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    grpc_port, metrics_port = (each.getsockname()[1] for each in free)
    for each in free:
        each.close()
    server = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": grpc_port,
        "metrics_port": metrics_port,
        "debug": False,
    }
    model = {
        "name": "fmlp",
        "implementation": "serving_mlserver.Classifier",
        "max_batch_size": BATCH_SIZE,
        "max_batch_time": BATCH_WAIT_SECONDS,
    }
    (directory / "settings.json").write_text(json.dumps(server), encoding="utf-8")
    (directory / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")


if __name__ == "__main__":
    where = Path(sys.argv[2])
    _write_settings(where, int(sys.argv[1]))
    program = str(Path(sys.executable).with_name("mlserver"))
    os.execv(program, [program, "start", str(where)])
