"""The page's charts: curves over the epochs, accuracies beside each other, reliability."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distributed_fmlp.records import EpochRecord, TrialRecord, best_epoch
from distributed_fmlp.report.accuracies import AccuracyRow
from distributed_fmlp.report.calibration import ReliabilityBin
from distributed_fmlp.report.charts import Chart, Tick, nice_ticks, tick_labels, y_axis
from distributed_fmlp.report.published import PublishedRun
from distributed_fmlp.report.quantities import QUANTITIES, SPLITS, Quantity, epoch_ticks
from distributed_fmlp.report.statistics import wilson_interval


def curve_charts(trials: Sequence[TrialRecord], published: PublishedRun | None) -> list[Chart]:
    """Loss, accuracy and F1 over the epochs of one learning rate's seeds."""
    return [_curve_chart(trials, quantity, published) for quantity in QUANTITIES]


def _curve_chart(
    trials: Sequence[TrialRecord], quantity: Quantity, published: PublishedRun | None
) -> Chart:
    rows = [row for trial in trials for row in trial.epochs]
    values = [quantity.of(row, split) for row in rows for split, *_ in SPLITS]
    longest = max(row.epoch for row in rows)
    if published is not None:
        longest = max(longest, *(int(row[0]) for row in published.epochs))
        at = quantity.published_column
        values += [row[column] for row in published.epochs for column in (at, at + 3)]
    y_range, ticks = y_axis(values)
    chart = Chart(
        quantity.title,
        f"{quantity.title} over the epochs, training and validation, of {len(trials)} "
        f"{'seeds' if len(trials) > 1 else 'seed'}",
        "epoch",
        quantity.axis,
        (0.4, longest + 0.6),
        y_range,
    )
    chart.x_ticks = [Tick(chart.x(epoch), str(epoch)) for epoch in epoch_ticks(longest)]
    labels = tick_labels(ticks)
    chart.y_ticks = [Tick(chart.y(v), text) for v, text in zip(ticks, labels, strict=True)]
    for split, *_ in SPLITS:
        _draw_split(chart, trials, quantity, split)
    for shape, (split, name, *_), column in zip(
        ("diamond", "square"), SPLITS, (quantity.published_column, quantity.published_column + 3),
        strict=True,
    ):  # fmt: skip
        for row in published.epochs if published else ():
            says = f"published, {name}, epoch {row[0]:g}: {row[column]:g}"
            chart.mark(f"published {split}", shape, (row[0], row[column]), says)
    for trial in trials:
        best = best_epoch(trial.epochs)
        if best is not None:
            value = quantity.of(best, "val")
            says = f"seed {trial.seed}, epoch {best.epoch}: {value:.4g}"
            chart.mark("chosen", "star", (best.epoch, value), says)
    return chart


def _draw_split(
    chart: Chart, trials: Sequence[TrialRecord], quantity: Quantity, split: str
) -> None:
    by_epoch: dict[int, list[EpochRecord]] = {}
    for trial in trials:
        for row in trial.epochs:
            by_epoch.setdefault(row.epoch, []).append(row)
    columns = {
        epoch: [quantity.of(row, split) for row in rows] for epoch, rows in sorted(by_epoch.items())
    }
    if len(trials) > 1:
        chart.band(
            f"band {split}",
            [(epoch, min(values)) for epoch, values in columns.items()],
            [(epoch, max(values)) for epoch, values in columns.items()],
        )
    means = [(float(epoch), float(np.mean(values))) for epoch, values in columns.items()]
    if len(means) == 1:
        chart.mark(f"spot {split}", "dot", means[0], size=3)
    chart.line(f"line {split}", means)


# Test accuracies beside each other


def accuracy_chart(rows: Sequence[AccuracyRow]) -> Chart:
    """Mean test accuracies with their 95 % intervals, a dot a seed, published ones below each."""
    ends = [end for row in rows for end in row.ends]
    ticks = nice_ticks(min(ends), max(ends), most=7)
    longest = max(len(row.name) for row in rows)
    chart = Chart(
        "Test accuracy",
        "Test accuracy of each learning rate with its 95 % interval: "
        + "; ".join(f"{row.name}: {row.mean:.2f} %" for row in rows),
        "test accuracy (%), with 95 % intervals",
        "",
        (ticks[0], ticks[-1]),
        (len(rows) - 0.4, -0.6),
        left=min(130, 16 + 6.4 * longest),
        right=14,
        top=4,
        height=48 + 46 * len(rows),
    )
    chart.x_ticks = [Tick(chart.x(v), t) for v, t in zip(ticks, tick_labels(ticks), strict=True)]
    for place, row in enumerate(rows):
        chart.y_ticks.append(Tick(chart.y(place), row.name if len(row.name) < 19 else
                                  row.name[:17] + "…"))  # fmt: skip
        upper = place - 0.14 if row.published is not None else place
        says = f"{row.name}: {row.mean:.2f} %"
        if row.interval:
            says += f" ({row.interval.low:.2f} to {row.interval.high:.2f})"
            ends_at = [(row.interval.low, upper), (row.interval.high, upper)]
            chart.line("interval old" if row.published_alone else "interval", ends_at, says)
        for value in row.seeds if len(row.seeds) > 1 else ():
            chart.mark("seed", "dot", (value, upper), f"one seed: {value:.2f} %", 2.6)
        if row.published_alone:
            chart.mark("published old", "diamond", (row.mean, upper), says, 3.4)
        else:
            kind = "mean best" if row.best else "mean"
            chart.mark(kind, "dot", (row.mean, upper), says, 4.6)
        if row.published is not None:
            says = f"published: {row.published:.2f} %"
            if row.published_interval:
                low, high = row.published_interval.low, row.published_interval.high
                chart.line("interval old", [(low, place + 0.2), (high, place + 0.2)], says)
            chart.mark("published old", "diamond", (row.published, place + 0.2), says, 3.4)
    return chart


# Reliability


def reliability_chart(bins: Sequence[ReliabilityBin]) -> Chart:
    """Accuracy against confidence, with each bin's 95 % Wilson interval."""
    chart = Chart(
        "Reliability",
        "Accuracy against confidence; on the diagonal a model is right as often as it says",
        "confidence: the probability given (%)",
        "right (%)",
        (0, 100),
        (0, 100),
        right=14,
        height=300,
    )
    for value in range(0, 101, 20):
        chart.x_ticks.append(Tick(chart.x(value), str(value)))
        chart.y_ticks.append(Tick(chart.y(value), str(value)))
    chart.line("diagonal", [(0, 0), (100, 100)])
    points = []
    for each in bins:
        if each.confidence is None or each.accuracy is None:
            continue
        interval = wilson_interval(round(each.n * each.accuracy), each.n)
        x = 100 * each.confidence
        says = f"{each.n:,} images: {x:.1f} % sure, {100 * each.accuracy:.1f} % right"
        chart.line("interval", [(x, 100 * interval.low), (x, 100 * interval.high)], says)
        points.append((x, 100 * each.accuracy, says))
    chart.line("line train", [(x, y) for x, y, _ in points])
    for x, y, says in points:
        chart.mark("mean", "dot", (x, y), says, 3.4)
    return chart
