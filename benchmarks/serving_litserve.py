"""A rival: LitServe with its batching, one image a request as JSON."""
# No postponed annotations: LitServe reads them to know what a request is.

import sys
from typing import Any

import litserve
import numpy as np
import numpy.typing as npt
from fastapi import Request
from serving_network import BATCH_SIZE, BATCH_WAIT_SECONDS, answer, image_of, load_network


class Classifier(litserve.LitAPI):
    """`{"image": [784 numbers]}` to label, name and probabilities."""

    def setup(self, device: str) -> None:
        """Load the network in the worker."""
        self.network = load_network()

    def decode_request(self, request: Request) -> npt.NDArray[np.uint8]:
        """One image `[784]`."""
        return image_of(request["image"])

    def batch(self, inputs: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
        """Images `[N, 784]`."""
        return np.stack(inputs)

    def predict(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Probabilities `[N, 10]`."""
        return self.network(batch)[0]

    def unbatch(self, output: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        """Probabilities `[10]` of each."""
        return list(output)

    def encode_response(self, output: npt.NDArray[np.float32]) -> dict[str, Any]:
        """JSON values."""
        return answer(self.network, output[None])


if __name__ == "__main__":
    server = litserve.LitServer(
        Classifier(max_batch_size=BATCH_SIZE, batch_timeout=BATCH_WAIT_SECONDS), accelerator="cpu"
    )
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning"
    )
