"""One learning rate as the page shows it: epoch table, curves, confusion matrix, classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distributed_fmlp.records import TestRecord, TrialRecord, best_epoch
from distributed_fmlp.report.charts import Chart
from distributed_fmlp.report.page_charts import curve_charts
from distributed_fmlp.report.published import PublishedRun, published_beside
from distributed_fmlp.report.searched import hyperparameter_words
from distributed_fmlp.report.tables import MISSING, Column, Table, figure
from distributed_fmlp.run_directory import Run, format_learning_rate


@dataclass(frozen=True)
class Cell:
    """One cell of a confusion matrix."""

    count: int
    percent: float  # of its row
    diagonal: bool


@dataclass(frozen=True)
class RateView:
    """What the page shows of one learning rate. Parts not measured yet are None or empty."""

    name: str
    anchor: str
    best: bool
    facts: Sequence[str]  # a sentence each
    charts: Sequence[Chart]
    several: bool
    with_published: bool
    epochs: Table | None  # the first, the second and the last, with the published ones
    all_epochs: Table | None
    confusion: Sequence[Sequence[Cell]]
    confusion_title: str
    classes: Table | None


def rate_views(run: Run, best: float | None) -> list[RateView]:
    """Every learning rate of a run, in its order."""
    rates = dict.fromkeys(trial.learning_rate for trial in run.trials)
    return [
        _view(run, rate, [trial for trial in run.trials if trial.learning_rate == rate], best)
        for rate in rates
    ]


def _view(run: Run, rate: float, trials: Sequence[TrialRecord], best: float | None) -> RateView:
    started = [trial for trial in trials if trial.epochs]
    tested = [trial for trial in trials if trial.test_best is not None]
    published = published_beside(run, rate)
    name = format_learning_rate(rate)
    seeds = "one seed" if len(tested) == 1 else f"{len(tested)} seeds added up"
    rows = _mean_epochs(started)
    whose = "" if len(started) == 1 else f", mean of {len(started)} seeds"
    return RateView(
        name,
        f"lr-{name}",
        rate == best,
        _facts(run, trials),
        curve_charts(started, published) if started else [],
        len(started) > 1,
        published is not None,
        _epoch_table(f"Epochs{whose}", _few(rows), published) if rows else None,
        _epoch_table(f"Every epoch{whose}", rows, None) if len(rows) > 3 else None,
        _confusion([t.test_best for t in tested if t.test_best]),
        f"Confusion matrix on the test images, chosen epoch, {seeds}",
        _classes(run, [t.test_best for t in tested if t.test_best]),
    )


def _facts(run: Run, trials: Sequence[TrialRecord]) -> list[str]:
    facts = []
    for trial in trials:
        best = best_epoch(trial.epochs)
        drawn = hyperparameter_words(trial)
        words = f"Seed {trial.seed}{f', {drawn}' if drawn else ''}: "
        words += f"{trial.status}, {len(trial.epochs)} epochs"
        if best is not None:
            kind = {"finished": "chosen", "stopped": "best"}.get(trial.status, "best so far")
            words += f", {kind} epoch {best.epoch} (validation {100 * best.val_accuracy:.2f} %)"
        if trial.status in ("failed", "stopped"):
            words += f": {' '.join((trial.reason or 'no reason recorded').split())}"
        facts.append(words + ".")
    return facts


# Epochs


def _mean_epochs(trials: Sequence[TrialRecord]) -> list[list[float]]:
    """Epoch, then the six published columns, as means over the seeds that have the epoch."""
    by_epoch: dict[int, list[list[float]]] = {}
    for trial in trials:
        for row in trial.epochs:
            by_epoch.setdefault(row.epoch, []).append(
                [
                    *(row.train_loss, 100 * row.train_accuracy, row.train_f1),
                    *(row.val_loss, 100 * row.val_accuracy, row.val_f1),
                ]
            )
    return [
        [epoch, *(float(value) for value in np.mean(rows, axis=0))]
        for epoch, rows in sorted(by_epoch.items())
    ]


def _few(rows: Sequence[list[float]]) -> list[list[float] | None]:
    """The first, the second, a gap and the last."""
    return [*rows[:2], None, rows[-1]] if len(rows) > 3 else list(rows)


def _epoch_table(
    title: str, rows: Sequence[list[float] | None], published: PublishedRun | None
) -> Table:
    columns = [
        Column("epoch"),
        *(Column(name, "training") for name in ("loss", "acc %", "F1")),
        *(Column(name, "validation") for name in ("loss", "acc %", "F1")),
    ]
    old = {int(row[0]): row for row in published.epochs} if published else {}
    cells = []
    for row in rows:
        if row is None:
            cells.append(["…"] * 7)
            continue
        cells.append(_epoch_cells(str(int(row[0])), row[1:]))
        if int(row[0]) in old:
            cells.append(_epoch_cells("published", old[int(row[0])][1:]))
    return Table(title, columns, cells)


def _epoch_cells(name: str, values: Sequence[float]) -> list[str]:
    digits = (4, 2, 4, 4, 2, 4)
    return [name, *(figure(v, d) for v, d in zip(values, digits, strict=True))]


# Classes


def _confusion(tests: Sequence[TestRecord]) -> list[list[Cell]]:
    if not tests:
        return []
    counts = np.sum([test.confusion_matrix for test in tests], axis=0)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return [
        [
            Cell(int(count), float(share), i == j)
            for j, (count, share) in enumerate(zip(row, row_shares, strict=True))
        ]
        for i, (row, row_shares) in enumerate(zip(counts, shares, strict=True))
    ]


def _classes(run: Run, tests: Sequence[TestRecord]) -> Table | None:
    if not tests:
        return None
    names = run.info["dataset"]["class_names"]
    images = np.sum(tests[0].confusion_matrix, axis=1)
    columns = [Column(name) for name in ("class", "images", "precision", "recall", "F1")]
    several = len(tests) > 1
    if several:
        columns += [Column("SD of F1")]
    rows = []
    for i, name in enumerate(names):
        each = [
            [test.precision_per_class[i], test.recall_per_class[i], test.f1_per_class[i]]
            for test in tests
        ]
        means = np.mean(each, axis=0)
        cells = [str(name), f"{int(images[i]):,}", *(figure(float(v), 3) for v in means)]
        if several:
            cells.append(figure(float(np.std([f1 for *_, f1 in each], ddof=1)), 3))
        rows.append(cells)
    overall = [figure(float(np.mean([getattr(t, k) for t in tests])), 3) for k in _PER_CLASS]
    rows.append(["macro mean", f"{int(images.sum()):,}", *overall, *([MISSING] * several)])
    whose = f", mean of {len(tests)} seeds" if several else ""
    return Table(f"Each class on the test images{whose}", columns, rows)


_PER_CLASS = ("precision_per_class", "recall_per_class", "f1_per_class")
