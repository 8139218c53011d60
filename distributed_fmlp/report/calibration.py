"""How far a model's probabilities can be trusted, and what it confuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BINS = 15


@dataclass(frozen=True)
class ReliabilityBin:
    """Images whose confidence lies in (low, high]; the first bin takes 0 as well."""

    low: float
    high: float
    n: int
    confidence: float | None  # mean; None for an empty bin, as is the next
    accuracy: float | None


@dataclass(frozen=True)
class Confusion:
    """How many images of one class were taken for another."""

    true: int
    predicted: int
    n: int


def reliability(
    correct: npt.NDArray[np.bool_], confidence: npt.NDArray[np.float32], bins: int = BINS
) -> list[ReliabilityBin]:
    """Accuracy against confidence in bins of equal width.

    `correct` is bool `[N]`, `confidence` float `[N]` in [0, 1]: the probability of the class that
    was predicted.
    """
    edges = np.linspace(0, 1, bins + 1)
    certain = confidence.astype(np.float64)
    which = np.clip(np.searchsorted(edges, certain, side="left") - 1, 0, bins - 1)
    rows = []
    for index in range(bins):
        inside = which == index
        n = int(inside.sum())
        mean = (float(certain[inside].mean()), float(correct[inside].mean())) if n else (None, None)
        rows.append(ReliabilityBin(float(edges[index]), float(edges[index + 1]), n, *mean))
    return rows


def expected_calibration_error(rows: Sequence[ReliabilityBin]) -> float:
    """Mean distance of accuracy from confidence, weighted by the images in each bin, in [0, 1].

    M. P. Naeini, G. F. Cooper and M. Hauskrecht, AAAI 2015. Raises `ValueError` without images.
    """
    total = sum(row.n for row in rows)
    if total == 0:
        raise ValueError("no images to be calibrated on")
    gaps = (
        row.n * abs(row.accuracy - row.confidence)
        for row in rows
        if row.accuracy is not None and row.confidence is not None
    )
    return sum(gaps) / total


def most_confident_errors(
    label: npt.NDArray[np.uint8],
    predicted: npt.NDArray[np.uint8],
    confidence: npt.NDArray[np.float32],
    count: int,
) -> list[int]:
    """Positions of the misclassified images, greatest confidence first, `count` at most.

    All three are `[N]`; equals come in the order of the test set.
    """
    wrong = np.flatnonzero(label != predicted)
    order = np.argsort(-confidence[wrong], kind="stable")
    return [int(position) for position in wrong[order][:count]]


def most_confused(matrix: Sequence[Sequence[int]], count: int) -> list[Confusion]:
    """The commonest mistakes of a confusion matrix (rows true, columns predicted), most first."""
    cells = [
        Confusion(true, predicted, n)
        for true, row in enumerate(matrix)
        for predicted, n in enumerate(row)
        if true != predicted and n > 0
    ]
    return sorted(cells, key=lambda cell: (-cell.n, cell.true, cell.predicted))[:count]
