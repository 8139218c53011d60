"""The figures against scikit-learn's, and against counting by hand."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from distributed_fmlp import metrics

CLASSES = list(range(10))


def f1_by_hand(labels: np.ndarray, predicted: np.ndarray, label: int) -> float:
    hits = int(np.sum((labels == label) & (predicted == label)))
    both = int(np.sum(labels == label) + np.sum(predicted == label))
    return 2 * hits / both if both else 0.0


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=60))
@settings(max_examples=100, deadline=None)
def test_accuracy_and_macro_f1_are_what_counting_gives(pairs: list[tuple[int, int]]) -> None:
    labels, predicted = np.array(pairs, dtype=np.int64).T
    assert metrics.accuracy(labels, predicted) == sum(a == b for a, b in pairs) / len(pairs)
    expected = np.mean([f1_by_hand(labels, predicted, label) for label in CLASSES])
    assert metrics.macro_f1(labels, predicted, 10) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=200))
@settings(max_examples=200, deadline=None)
def test_every_figure_is_scikit_learns_to_the_last_bit(pairs: list[tuple[int, int]]) -> None:
    labels, predicted = np.array(pairs, dtype=np.int64).T
    record = metrics.test_record(1, 0.0, labels, predicted, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes that are missing from a small sample
        precision, recall, f1, _ = sklearn.metrics.precision_recall_fscore_support(
            labels, predicted, labels=CLASSES, zero_division=0.0
        )
        macro = sklearn.metrics.f1_score(
            labels, predicted, labels=CLASSES, average="macro", zero_division=0.0
        )
    confusion = sklearn.metrics.confusion_matrix(labels, predicted, labels=CLASSES)
    assert record.accuracy == sklearn.metrics.accuracy_score(labels, predicted)
    assert record.precision_per_class == precision.tolist()
    assert record.recall_per_class == recall.tolist()
    assert record.f1_per_class == f1.tolist()
    assert record.f1 == metrics.macro_f1(labels, predicted, 10) == macro
    assert record.confusion_matrix == confusion.tolist()


def test_a_test_record_holds_scikit_learns_figures() -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 10, 500)
    predicted = np.where(draw.random(500) < 0.8, labels, draw.integers(0, 10, 500))
    record = metrics.test_record(7, 0.25, labels, predicted, 10)
    report = sklearn.metrics.classification_report(labels, predicted, output_dict=True)
    assert (record.epoch, record.loss) == (7, 0.25)
    assert record.accuracy == pytest.approx(report["accuracy"])
    assert record.f1 == pytest.approx(report["macro avg"]["f1-score"])
    for label in CLASSES:
        row = report[str(label)]
        assert record.precision_per_class[label] == pytest.approx(row["precision"])
        assert record.recall_per_class[label] == pytest.approx(row["recall"])
        assert record.f1_per_class[label] == pytest.approx(row["f1-score"])


def test_the_confusion_matrix_has_true_classes_in_rows_and_predicted_ones_in_columns() -> None:
    record = metrics.test_record(1, 0.0, np.array([0, 0, 2]), np.array([0, 1, 2]), 3)
    assert record.confusion_matrix == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert all(type(count) is int for row in record.confusion_matrix for count in row)


def test_a_class_that_is_neither_there_nor_predicted_counts_zero_and_nothing_warns() -> None:
    labels = np.zeros(4, dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert metrics.macro_f1(labels, labels, 10) == pytest.approx(0.1)
        record = metrics.test_record(1, 0.0, labels, labels, 10)
    assert record.f1 == pytest.approx(0.1)
    assert record.f1_per_class == [1.0] + [0.0] * 9
