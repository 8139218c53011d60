"""Test accuracies to be drawn beside each other, on the page and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distributed_fmlp.report.answer import published_interval
from distributed_fmlp.report.statistics import Interval
from distributed_fmlp.report.summary import RateRow
from distributed_fmlp.run_directory import format_learning_rate


@dataclass(frozen=True)
class AccuracyRow:
    """One line of the chart of accuracies, all in percent."""

    name: str
    mean: float
    interval: Interval | None
    seeds: Sequence[float]
    best: bool = False
    published: float | None = None
    published_interval: Interval | None = None
    published_alone: bool = False  # the line itself is of a published figure

    @property
    def ends(self) -> list[float]:
        """Every value that is drawn."""
        values = [self.mean, *self.seeds]
        if self.published is not None:
            values.append(self.published)
        for interval in (self.interval, self.published_interval):
            values += [interval.low, interval.high] if interval else []
        return values


def accuracy_rows(rates: Sequence[RateRow]) -> list[AccuracyRow]:
    """A line for each learning rate of a run."""
    return [
        AccuracyRow(
            format_learning_rate(row.figures.learning_rate),
            row.figures.test_accuracy_percent.mean,
            row.figures.accuracy_interval,
            row.figures.seed_accuracies_percent,
            row.best_on_validation,
            row.published.test_accuracy_percent if row.published else None,
            published_interval(row.published) if row.published else None,
        )
        for row in rates
    ]
