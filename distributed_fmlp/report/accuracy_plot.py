"""Draw the learning rates' test accuracies with their intervals beside the published ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from distributed_fmlp.report.accuracies import AccuracyRow
from distributed_fmlp.report.plot_style import BLACK, GREY, heading, new_figure
from distributed_fmlp.report.quantities import BLUE
from distributed_fmlp.run_directory import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def accuracy_figure(run: Run, rows: Sequence[AccuracyRow]) -> Figure:
    """One line a learning rate: mean, 95 % interval and seeds; below it the published figure."""
    height = 2.0 + 0.62 * len(rows)
    figure = new_figure(7.5, height)
    axes = figure.add_axes((0.11, 1.1 / height, 0.86, 1 - 1.85 / height))
    several = any(len(row.seeds) > 1 for row in rows)
    over = "mean over seeds, Student's t" if several else "one seed, Wilson"
    mean = "mean over seeds" if several else "this run"
    heading(figure, run, 0.11, "Test accuracy", f"95 % intervals: {over}; published: Wilson")
    for place, row in enumerate(rows):
        _draw_row(axes, place, row, mean)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.set_ylabel("learning rate")
    axes.set_xlabel("test accuracy (%)")
    axes.grid(False, axis="y")
    handles, labels = axes.get_legend_handles_labels()
    known = dict(zip(labels, handles, strict=True))
    order = (mean, "best on validation", "one seed", "published, a single run")
    unique = {label: known[label] for label in order if label in known}
    figure.legend(
        unique.values(),
        unique.keys(),
        loc="lower center",
        bbox_to_anchor=(0.5, 0.02 / height),
        ncols=4,
        columnspacing=1.8,
    )
    return figure


def _draw_row(axes: Axes, place: int, row: AccuracyRow, mean: str) -> None:
    upper = place - 0.14 if row.published is not None else place
    if row.interval is not None:
        axes.plot([row.interval.low, row.interval.high], [upper] * 2, color=BLUE, lw=2.4, alpha=0.8)
    if len(row.seeds) > 1:
        axes.plot(
            row.seeds, [upper] * len(row.seeds), "o", ms=5, mfc="white", mec=BLUE, label="one seed"
        )
    face, label = (BLACK, "best on validation") if row.best else (BLUE, mean)
    axes.plot([row.mean], [upper], "o", ms=8.5, mew=1.5, mfc=face, mec=BLUE, zorder=4, label=label)
    if row.published is None:
        return
    lower = place + 0.2
    if row.published_interval is not None:
        ends = [row.published_interval.low, row.published_interval.high]
        axes.plot(ends, [lower] * 2, color=GREY, lw=1.3)
    axes.plot(
        [row.published], [lower], "D", ms=6, mfc="white", mec=GREY, zorder=4,
        label="published, a single run",
    )  # fmt: skip
