"""Draw the confusion matrix of one learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from distributed_fmlp.records import TrialRecord
from distributed_fmlp.report.plot_style import heading, new_figure, seed_words
from distributed_fmlp.run_directory import Run, format_learning_rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def confusion_matrix(run: Run, trials: Sequence[TrialRecord]) -> Figure:
    """Test images by true and predicted class at the chosen epoch: counts and shares of the row.

    Several seeds' counts are added up.
    """
    counts = np.sum([trial.test_best.confusion_matrix for trial in trials if trial.test_best], 0)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = run.info["dataset"]["class_names"]
    figure = new_figure(8.2, 7.9)
    left = 0.135
    axes = figure.add_axes((left, 0.125, 0.775, 0.775))
    rate = format_learning_rate(trials[0].learning_rate)
    note = f"test images, and % of their true class; blank: none · {seed_words(trials)}"
    if len(trials) == 1 and trials[0].test_best:
        note += f", chosen epoch {trials[0].test_best.epoch}"
    else:
        note += " added up"
    heading(figure, run, 0.02, f"Confusion matrix · learning rate {rate}", note)
    # A square-root scale: the few confusions are what the eye should find beside the diagonal.
    axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=10, aspect="auto")
    _write_cells(axes, counts, shares)
    turned = max((len(name) for name in names), default=0) > 6
    axes.set_xticks(
        range(len(names)),
        names,
        rotation=35 if turned else 0,
        ha="right" if turned else "center",
        rotation_mode="anchor" if turned else "default",
    )
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    scale = figure.add_axes((0.93, 0.125, 0.018, 0.775))
    _draw_scale(scale)
    return figure


def _write_cells(axes: Axes, counts: np.ndarray[Any, Any], shares: np.ndarray[Any, Any]) -> None:
    for (row, column), count in np.ndenumerate(counts):
        if count == 0:
            continue
        share = f"{shares[row, column]:.1f} %"
        at: dict[str, Any] = {
            "ha": "center",
            "color": "white" if shares[row, column] > 36 else "#222222",
        }
        if row == column:
            axes.text(
                column, row - 0.04, str(count), va="bottom", fontsize=9.5, weight="bold", **at
            )
            axes.text(column, row + 0.07, share, va="top", fontsize=7.5, **at)
        else:
            # One text of two lines: what is drawn once for each cell decides the report's time.
            axes.text(column, row, f"{count}\n{share}", va="center", fontsize=7.5, **at)


def _draw_scale(axes: Axes) -> None:
    ticks = (0, 1, 5, 10, 25, 50, 75, 100)
    axes.imshow(
        np.linspace(0, 10, 256)[:, None],
        cmap="Blues",
        vmin=0,
        vmax=10,
        aspect="auto",
        origin="lower",
        extent=(0, 1, 0, 10),
    )
    axes.set_yticks([tick**0.5 for tick in ticks], [str(tick) for tick in ticks], fontsize=8)
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.tick_params(length=2)
    axes.grid(False)
    axes.set_title("%", fontsize=8, pad=4)
