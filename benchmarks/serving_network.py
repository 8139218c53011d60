"""What all rival servers share: the bundle's network, on one thread, as plain functions.

It is the network that this project's service computes with, batch norm folded in, so that servers
are compared and not networks.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from distributed_fmlp.serving.model import InferenceModel, open_model

BUNDLE_VARIABLE = "FMLP_BENCHMARK_BUNDLE"
BATCH_SIZE = 64
BATCH_WAIT_SECONDS = 0.002
PIXELS = 784


def load_network() -> InferenceModel:
    """The network of the bundle that the environment names, computed once to be warm."""
    torch.set_num_threads(1)
    network = open_model(os.environ[BUNDLE_VARIABLE])
    network(np.zeros((BATCH_SIZE, PIXELS), np.uint8))
    return network


def image_of(numbers: Any) -> npt.NDArray[np.uint8]:
    """One image `[784]` from a list of numbers. Raises `ValueError` when it's none."""
    image = np.asarray(numbers, np.uint8)
    if image.shape != (PIXELS,):
        raise ValueError("an image is 784 numbers")
    return image


def images_of(body: bytes) -> npt.NDArray[np.uint8]:
    """Images `[N, 784]` from raw bytes. Raises `ValueError` when they are no whole images."""
    return np.frombuffer(body, np.uint8).reshape(-1, PIXELS)


def answer(
    network: InferenceModel, probabilities: npt.NDArray[np.float32]
) -> dict[str, list[dict[str, Any]]]:
    """Probabilities `[N, 10]` as JSON values: label, name and all ten of each image."""
    names = network.served.class_names
    return {
        "predictions": [
            {"label": label, "class_name": names[label], "probabilities": row}
            for label, row in zip(
                probabilities.argmax(axis=1).tolist(), probabilities.tolist(), strict=True
            )
        ]
    }
