"""A rival: a BentoML service with its adaptive batching, one image a request as JSON.

`python serving_bentoml.py PORT` starts it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import bentoml
import numpy as np
from serving_network import BATCH_SIZE, load_network


@bentoml.service(workers=1)
class Classifier:
    """`{"images": [[784 numbers]]}` to probabilities."""

    def __init__(self) -> None:
        self.network = load_network()

    @bentoml.api(batchable=True, max_batch_size=BATCH_SIZE, batch_dim=0)
    def predict(self, images: np.ndarray) -> np.ndarray:
        """Probabilities `[N, 10]` of images `[N, 784]`."""
        return self.network(images.astype(np.uint8))[0]


if __name__ == "__main__":
    here = Path(__file__).resolve()
    words = [sys.executable, "-m", "bentoml", "serve", f"{here.stem}:Classifier"]
    words += ["--host", "127.0.0.1", "--port", sys.argv[1], "--working-dir", str(here.parent)]
    os.execv(sys.executable, words)
