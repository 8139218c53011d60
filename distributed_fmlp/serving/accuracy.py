"""How accurate a model is on a test set, where that is on disk."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distributed_fmlp.data import VARIABLE, VariableError, load_dataset
from distributed_fmlp.download import UnreachableError
from distributed_fmlp.errors import BundleError, DataError
from distributed_fmlp.serving.engine import Comparison, PromotionRequest
from distributed_fmlp.serving.model import InferenceModel

_BATCH = 500


@dataclass(frozen=True)
class TestSet:
    """Images uint8 `[N, 784]` and labels int64 `[N]`."""

    __test__ = False  # no test, whatever pytest makes of the name

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def test_set_on_disk(name: str, sha256: str, data_dir: str | None = None) -> TestSet | str:
    """The test set of the data set of that name and SHA-256, or why there is none.

    Nothing is downloaded. With `data_dir` it counts only there; digits come with a library and are
    everywhere. What is said names no path but `data_dir`, so that any client may read it.
    """
    there = "on this service's disk" if data_dir is None else f"in {data_dir}"
    directory = None if data_dir is None else Path(os.path.expanduser(data_dir))
    if directory is not None and not os.path.isdir(directory):
        return f"the service sees no directory {data_dir}"
    try:
        dataset = load_dataset(name, directory, may_download=False)
    except VariableError:
        return f"the test set of {name} is not where the service's {VARIABLE} says"
    except DataError as error:
        if isinstance(error.__cause__, UnreachableError):
            return f"the test set of {name} is not {there}"
        return f"the files of {name} can't be used {there}: they are damaged or unreadable"
    found = dataset.location
    elsewhere = directory and found and Path(found) != directory.absolute()
    if elsewhere:
        return f"the test set of {name} is not {there}"
    if dataset.sha256 != sha256:
        return f"the {name} {there} is not the one that the served model was measured with"
    return TestSet(dataset.test_images, dataset.test_labels)


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
) -> Comparison:
    """Both models' test accuracy, or why it wasn't compared.

    Raises `BundleError` when the candidate is less accurate than allowed, `DataError` when the
    directory that the request names doesn't hold the test set.
    """
    found = test_set_on_disk(served.served.dataset, served.served.dataset_sha256, request.data_dir)
    if isinstance(found, str):
        if request.data_dir is not None:
            raise DataError(
                f"accuracy can't be compared: {found}; name the directory that holds "
                "FashionMNIST/raw as the service sees it, or none to look where the service does"
            )
        return Comparison(reason=found)
    was = accuracy(served, found.images, found.labels)
    new = accuracy(candidate, found.images, found.labels)
    if new < was - request.allowed_accuracy_drop - 1e-12:
        raise BundleError(
            f"the bundle is refused: its test accuracy is {100 * new:.2f} %, the served model's "
            f"{100 * was:.2f} %, and a drop of {100 * request.allowed_accuracy_drop:.2f} points is "
            "allowed; allow more, or promote another"
        )
    return Comparison(before=was, promoted=new)
