"""Calibration and confusions against hand-made figures and a model that knows how sure to be."""

from __future__ import annotations

import numpy as np
import pytest

from distributed_fmlp.report.calibration import (
    Confusion,
    expected_calibration_error,
    most_confident_errors,
    most_confused,
    reliability,
)


def test_bins_and_error_are_the_hand_made_ones() -> None:
    correct = np.array([True, False, True, True])
    confidence = np.array([0.5, 0.5, 0.9, 1.0], np.float32)
    rows = reliability(correct, confidence, bins=2)
    assert [(row.low, row.high, row.n) for row in rows] == [(0.0, 0.5, 2), (0.5, 1.0, 2)]
    assert (rows[0].accuracy, rows[0].confidence) == (0.5, 0.5)
    assert rows[1].accuracy == 1.0 and rows[1].confidence == pytest.approx(0.95)
    assert expected_calibration_error(rows) == pytest.approx(0.5 * 0.05)


def test_an_empty_bin_has_no_figures_and_no_weight() -> None:
    rows = reliability(np.array([True]), np.array([1.0], np.float32), bins=4)
    assert [row.n for row in rows] == [0, 0, 0, 1]
    assert (rows[0].accuracy, rows[0].confidence) == (None, None)
    assert expected_calibration_error(rows) == 0.0


def test_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match="no images"):
        expected_calibration_error(reliability(np.zeros(0, bool), np.zeros(0, np.float32)))


def test_a_model_that_is_right_as_often_as_it_says_has_almost_no_error() -> None:
    draw = np.random.default_rng(0)
    confidence = draw.uniform(0.1, 1.0, 200_000).astype(np.float32)
    honest = reliability(draw.random(200_000) < confidence, confidence)
    boastful = reliability(draw.random(200_000) < confidence - 0.1, confidence)
    assert expected_calibration_error(honest) < 0.006
    assert expected_calibration_error(boastful) == pytest.approx(0.1, abs=0.006)


def test_the_most_confident_errors_come_first() -> None:
    label = np.array([0, 1, 2, 3, 4], np.uint8)
    predicted = np.array([0, 9, 9, 3, 9], np.uint8)
    confidence = np.array([1.0, 0.4, 0.8, 0.9, 0.8], np.float32)
    assert most_confident_errors(label, predicted, confidence, 2) == [2, 4]
    assert most_confident_errors(label, predicted, confidence, 9) == [2, 4, 1]


def test_the_most_confused_classes_come_first_and_the_diagonal_never() -> None:
    matrix = [[90, 3, 0], [7, 80, 1], [0, 3, 99]]
    wanted = [Confusion(1, 0, 7), Confusion(0, 1, 3), Confusion(2, 1, 3)]
    assert most_confused(matrix, 3) == wanted
    assert len(most_confused(matrix, 99)) == 4
