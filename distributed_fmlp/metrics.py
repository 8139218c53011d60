"""Accuracy, precision, recall, F1 and the confusion matrix, as scikit-learn defines them.

They are counted here, with NumPy: importing scikit-learn would cost every trial some 50 MiB and a
second. The tests hold each figure to scikit-learn's, to the last bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distributed_fmlp.records import TestRecord

Labels = NDArray[np.int64]
Scores = NDArray[np.float64]


def accuracy(labels: Labels, predicted: Labels) -> float:
    """Share of `predicted` int64 `[N]` that equal `labels` int64 `[N]`."""
    return float(np.mean(labels == predicted))


def confusion_matrix(labels: Labels, predicted: Labels, n_classes: int) -> Labels:
    """Counts int64 `[n_classes, n_classes]`: rows are true classes, columns predicted ones."""
    counts = np.bincount(labels * n_classes + predicted, minlength=n_classes**2)
    return counts.reshape(n_classes, n_classes)


def scores_per_class(confusion: Labels) -> tuple[Scores, Scores, Scores]:
    """Precision, recall and F1, each float64 `[n_classes]`; 0 where one would divide by 0."""
    hits = np.diagonal(confusion)
    predicted, present = confusion.sum(axis=0), confusion.sum(axis=1)
    return (
        _shares(hits, predicted),
        _shares(hits, present),
        _shares(2 * hits, predicted + present),
    )


def macro_f1(labels: Labels, predicted: Labels, n_classes: int) -> float:
    """Unweighted mean of the classes' F1; a class never predicted nor present counts 0."""
    _, _, f1 = scores_per_class(confusion_matrix(labels, predicted, n_classes))
    return float(np.mean(f1))


def test_record(
    epoch: int, loss: float, labels: Labels, predicted: Labels, n_classes: int
) -> TestRecord:
    """All test figures of one model from its predictions int64 `[N]`; `loss` in nats per image."""
    confusion = confusion_matrix(labels, predicted, n_classes)
    precision, recall, f1 = scores_per_class(confusion)
    return TestRecord(
        epoch=epoch,
        loss=loss,
        accuracy=accuracy(labels, predicted),
        f1=float(np.mean(f1)),
        precision_per_class=precision.tolist(),
        recall_per_class=recall.tolist(),
        f1_per_class=f1.tolist(),
        confusion_matrix=confusion.tolist(),
    )


def _shares(part: Labels, whole: Labels) -> Scores:
    return np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)
