"""Draw one quantity over the epochs of one learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from distributed_fmlp.records import TrialRecord, best_epoch
from distributed_fmlp.report.plot_style import (
    BLACK,
    GREY,
    heading,
    new_figure,
    progress_words,
    seed_words,
)
from distributed_fmlp.report.published import PublishedRun
from distributed_fmlp.report.quantities import SPLITS, Quantity, architecture_name, epoch_ticks
from distributed_fmlp.run_directory import Run, format_learning_rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def curves(
    run: Run, trials: Sequence[TrialRecord], quantity: Quantity, published: PublishedRun | None
) -> Figure:
    """One quantity over the epochs, training and validation, of the seeds of one learning rate.

    One seed is a line. Several are a thin line each, a band from the lowest to the highest, and
    their mean. Each seed's chosen epoch is marked, and the published points are drawn in.
    """
    figure = new_figure(7.5, 5.0)
    axes = figure.add_axes((0.095, 0.205, 0.88, 0.655))
    rate = format_learning_rate(trials[0].learning_rate)
    hidden = run.info["architecture"]["hidden"]
    network = "Architecture 2" if architecture_name(hidden) == "Arch2" else f"hidden {hidden}"
    note = f"{network} · {seed_words(trials)}{progress_words(run, trials)}"
    heading(figure, run, 0.095, f"{quantity.title} · learning rate {rate}", note)
    for split, name, colour, dashes in SPLITS:
        _draw_split(axes, trials, quantity, split, name, colour, dashes)
    _mark_chosen(axes, trials, quantity)
    if published is not None:
        for offset, (_, name, colour, _dashes) in enumerate(SPLITS):
            column = quantity.published_column + 3 * offset
            axes.plot(
                [row[0] for row in published.epochs],
                [row[column] for row in published.epochs],
                **_hollow("Ds"[offset], colour),
                label=f"{name}, published",
            )
    axes.set_xlabel("epoch")
    axes.set_ylabel(quantity.axis)
    longest = max(len(trial.epochs) for trial in trials)
    if published is not None:
        longest = max(longest, *(int(row[0]) for row in published.epochs))
    axes.set_xticks(epoch_ticks(longest))
    axes.set_xlim(0.5 - 0.01 * longest, longest + 0.5 + 0.01 * longest)
    figure.legend(loc="lower center", bbox_to_anchor=(0.5, 0.005), ncols=3, columnspacing=2.2)
    return figure


def _hollow(marker: str, colour: str) -> dict[str, Any]:
    return {
        "linestyle": "none",
        "marker": marker,
        "markersize": 7,
        "markerfacecolor": "white",
        "markeredgecolor": colour,
        "markeredgewidth": 1.4,
        "zorder": 4,
        "clip_on": False,
    }


def _draw_split(
    axes: Axes,
    trials: Sequence[TrialRecord],
    quantity: Quantity,
    split: str,
    name: str,
    colour: str,
    dashes: str,
) -> None:
    longest = max(len(trial.epochs) for trial in trials)
    values = np.full((len(trials), longest), np.nan)
    for line, trial in zip(values, trials, strict=True):
        line[: len(trial.epochs)] = [quantity.of(row, split) for row in trial.epochs]
    epochs = np.arange(1, longest + 1)
    # One epoch alone makes no line.
    marker = "o" if longest == 1 else None
    if len(trials) == 1:
        axes.plot(epochs, values[0], dashes, color=colour, lw=1.8, marker=marker, label=name)
        return
    for line in values:
        axes.plot(epochs, line, dashes, color=colour, lw=0.6, alpha=0.45)
    masked = np.ma.masked_invalid(values)
    low, high = masked.min(axis=0), masked.max(axis=0)
    axes.fill_between(epochs, low, high, color=colour, alpha=0.16, lw=0)
    label = f"{name}: mean and range"
    axes.plot(epochs, masked.mean(axis=0), dashes, color=colour, lw=2, marker=marker, label=label)


def _mark_chosen(axes: Axes, trials: Sequence[TrialRecord], quantity: Quantity) -> None:
    chosen = [best for trial in trials if (best := best_epoch(trial.epochs)) is not None]
    single = len(chosen) == 1
    finished = all(trial.status == "finished" for trial in trials)
    stopped = all(trial.status == "stopped" for trial in trials)
    label = "chosen epoch" if finished else "best epoch" if stopped else "best epoch so far"
    label += f" ({chosen[0].epoch})" if single else " of each seed"
    if single:
        axes.axvline(chosen[0].epoch, color=GREY, lw=0.9, ls=":", zorder=1)
    axes.plot(
        [row.epoch for row in chosen],
        [quantity.of(row, "val") for row in chosen],
        linestyle="none",
        marker="*",
        markersize=15 if single else 11,
        markerfacecolor=BLACK,
        markeredgecolor="white",
        markeredgewidth=0.9,
        zorder=5,
        label=label,
    )
