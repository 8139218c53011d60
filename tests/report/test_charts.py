"""Charts as geometry: values are where the axes say, and what is no number is left out."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import make_run

from distributed_fmlp.report.accuracies import AccuracyRow
from distributed_fmlp.report.calibration import ReliabilityBin
from distributed_fmlp.report.charts import Chart, nice_ticks, tick_labels
from distributed_fmlp.report.page_charts import accuracy_chart, curve_charts, reliability_chart
from distributed_fmlp.report.published import published_beside
from distributed_fmlp.report.statistics import Interval
from distributed_fmlp.run_directory import load_run


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([-\d.]+) ([-\d.]+)", path)]


def shapes(chart: Chart, kind: str) -> list[str]:
    return [shape.path for shape in chart.shapes if shape.kind == kind]


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_even_and_hold_the_values_between_them(low: float, span: float) -> None:
    high = low + span
    ticks = nice_ticks(low, high)
    slack = 1e-6 * max(1.0, abs(low), span)
    assert ticks[0] <= low + slack and ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= 8
    steps = [b - a for a, b in pairwise(ticks)]
    assert max(steps) == pytest.approx(min(steps), rel=1e-3)


def test_labels_have_as_many_digits_as_they_need() -> None:
    assert tick_labels([0.85, 0.9, 0.95]) == ["0.85", "0.90", "0.95"]
    assert tick_labels([75, 80, 85]) == ["75", "80", "85"]
    assert nice_ticks(3.0, 3.0)[0] < 3.0 < nice_ticks(3.0, 3.0)[-1]


def test_curves_are_drawn_where_the_recorded_values_are(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "run", rates=(0.001,), seeds=(0, 1)))
    loss, accuracy, f1 = curve_charts(run.trials, published_beside(run, 0.001))
    assert [chart.title for chart in (loss, accuracy, f1)] == ["Loss", "Accuracy", "Macro F1"]
    [line] = shapes(accuracy, "line val")
    drawn = points(line)
    assert len(drawn) == 25
    means = [
        50 * (a.val_accuracy + b.val_accuracy)
        for a, b in zip(run.trials[0].epochs, run.trials[1].epochs, strict=True)
    ]
    wanted = [(accuracy.x(i + 1), accuracy.y(mean)) for i, mean in enumerate(means)]
    assert drawn == wanted
    for chart in (loss, accuracy, f1):
        assert len(shapes(chart, "chosen")) == 2
        assert len(shapes(chart, "published train")) == len(shapes(chart, "published val")) == 3
        for shape in chart.shapes:
            for x, y in points(shape.path):
                assert -8 < x < chart.width + 8 and -8 < y < chart.height


def test_a_loss_that_became_nan_leaves_a_gap_and_no_nan_in_the_drawing(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "run", rates=(0.001,), epochs=5))
    [trial] = run.trials
    rows = list(trial.epochs)
    rows[2] = replace(rows[2], val_loss=math.nan, train_loss=math.inf)
    loss = curve_charts([replace(trial, epochs=rows)], None)[0]
    [line] = shapes(loss, "line val")
    assert line.count("M") == 2 and len(points(line)) == 4
    assert not any(re.search("nan|inf", shape.path) for shape in loss.shapes)


def test_a_single_epoch_is_a_spot(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "run", rates=(0.001,), epochs=1))
    assert len(shapes(curve_charts(run.trials, None)[0], "spot val")) == 1


def test_accuracies_have_their_interval_their_seeds_and_the_published_one() -> None:
    rows = [
        AccuracyRow("0.001", 90.0, Interval(89.5, 90.5), [89.8, 90.2], True, 90.47,
                    Interval(89.88, 91.03)),
        AccuracyRow("0.002", 89.0, None, [89.0]),
    ]  # fmt: skip
    chart = accuracy_chart(rows)
    [interval] = shapes(chart, "interval")
    assert [x for x, _ in points(interval)] == [chart.x(89.5), chart.x(90.5)]
    assert len(shapes(chart, "seed")) == 2
    assert len(shapes(chart, "published old")) == len(shapes(chart, "interval old")) == 1
    assert len(shapes(chart, "mean best")) == len(shapes(chart, "mean")) == 1
    assert "0.001: 90.00 %" in chart.description


def test_empty_bins_are_not_drawn() -> None:
    bins = [ReliabilityBin(0.0, 0.5, 0, None, None), ReliabilityBin(0.5, 1.0, 10, 0.9, 0.8)]
    chart = reliability_chart(bins)
    assert len(shapes(chart, "mean")) == 1
    [interval] = shapes(chart, "interval")
    assert points(interval)[0][0] == chart.x(90)
