"""Accuracy, F1 and the confusion matrix, by scikit-learn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support

from distributed_fmlp.records import TestRecord

Labels = NDArray[np.int64]


def accuracy(labels: Labels, predicted: Labels) -> float:
    """Share of `predicted` int64 `[N]` that equal `labels` int64 `[N]`."""
    return float(np.mean(labels == predicted))


def macro_f1(labels: Labels, predicted: Labels, n_classes: int) -> float:
    """Unweighted mean of the classes' F1; a class never predicted nor present counts 0."""
    classes = list(range(n_classes))
    score = f1_score(labels, predicted, labels=classes, average="macro", zero_division=0.0)
    return float(score)


def test_record(
    epoch: int, loss: float, labels: Labels, predicted: Labels, n_classes: int
) -> TestRecord:
    """All test figures of one model from its predictions int64 `[N]`; `loss` in nats per image."""
    classes = list(range(n_classes))
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predicted, labels=classes, zero_division=0.0
    )
    return TestRecord(
        epoch=epoch,
        loss=loss,
        accuracy=accuracy(labels, predicted),
        f1=macro_f1(labels, predicted, n_classes),
        precision_per_class=[float(value) for value in precision],
        recall_per_class=[float(value) for value in recall],
        f1_per_class=[float(value) for value in f1],
        confusion_matrix=confusion_matrix(labels, predicted, labels=classes).tolist(),
    )
