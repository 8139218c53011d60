"""How accurate a model is on a test set, where that is on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distributed_fmlp.data import load_dataset
from distributed_fmlp.errors import BundleError, DataError
from distributed_fmlp.serving.engine import PromotionRequest
from distributed_fmlp.serving.model import InferenceModel

_BATCH = 500


def test_set_on_disk(
    name: str, sha256: str, data_dir: Path | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.int64]] | None:
    """Test images uint8 `[N, 784]` and labels int64 `[N]` of a data set; `None` where not on disk.

    Nothing is downloaded, and data with another SHA-256 counts as absent.
    """
    try:
        dataset = load_dataset(name, data_dir, may_download=False)
    except DataError:
        return None
    if dataset.sha256 != sha256:
        return None
    return dataset.test_images, dataset.test_labels


def accuracy(model: InferenceModel, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> float:
    """Share of the images uint8 `[N, 784]` that the model gives their labels int64 `[N]`."""
    right = 0
    for start in range(0, len(labels), _BATCH):
        rows = slice(start, start + _BATCH)
        _, predicted = model(images[rows])
        right += int((predicted == labels[rows]).sum())
    return right / len(labels)


def check_not_worse(
    served: InferenceModel, candidate: InferenceModel, request: PromotionRequest
) -> None:
    """Refuse a candidate that is less accurate than allowed, where the test data is on disk.

    Raises `BundleError`.
    """
    data_dir = None if request.data_dir is None else Path(request.data_dir)
    test_set = test_set_on_disk(served.served.dataset, served.served.dataset_sha256, data_dir)
    if test_set is None:
        return
    was, new = accuracy(served, *test_set), accuracy(candidate, *test_set)
    if new < was - request.allowed_accuracy_drop - 1e-12:
        raise BundleError(
            f"the bundle is refused: its test accuracy is {100 * new:.2f} %, the served model's "
            f"{100 * was:.2f} %, and a drop of {100 * request.allowed_accuracy_drop:.2f} points is "
            "allowed; allow more, or promote another"
        )
