"""Every plot of a run as PNG bytes, under the published file names."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

from distributed_fmlp.report.accuracies import AccuracyRow
from distributed_fmlp.report.accuracy_plot import accuracy_figure
from distributed_fmlp.report.confusion_plot import confusion_matrix
from distributed_fmlp.report.curve_plots import curves
from distributed_fmlp.report.plot_style import png, style
from distributed_fmlp.report.published import published_beside
from distributed_fmlp.report.quantities import QUANTITIES, architecture_name, plot_name
from distributed_fmlp.run_directory import Run

Plot = tuple[str, bytes]  # file name, PNG


def draw_plots(
    run: Run, accuracies: Sequence[AccuracyRow], *, processes: int = 1
) -> Iterator[Plot]:
    """Every plot that the run's figures allow, in a fixed order; one set per learning rate.

    `accuracies` go into one plot of all. A learning rate with no epoch yet has no curves, one with
    no test yet no confusion matrix. Several `processes` share the learning rates; they start this
    program's main module anew, which must then do nothing when imported.
    """
    if accuracies:
        name = f"test_accuracy_{architecture_name(run.info['architecture']['hidden'])}.png"
        with style():
            yield name, png(accuracy_figure(run, accuracies))
    rates = dict.fromkeys(trial.learning_rate for trial in run.trials)
    parts = [
        replace(run, trials=[trial for trial in run.trials if trial.learning_rate == rate])
        for rate in rates
    ]
    if processes < 2 or len(parts) < 2:
        for part in parts:
            yield from draw_rate(part)
        return
    # Not forked: threads of Ray or of a numerical library may hold locks.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(parts)), mp_context=context) as pool:
        for plots in pool.map(draw_rate, parts):
            yield from plots


def draw_rate(run: Run) -> list[Plot]:
    """The plots of a run whose trials all have the same learning rate."""
    hidden, rate = run.info["architecture"]["hidden"], run.trials[0].learning_rate
    started = [trial for trial in run.trials if trial.epochs]
    tested = [trial for trial in run.trials if trial.test_best is not None]
    published = published_beside(run, rate)
    plots = []
    with style():
        for quantity in QUANTITIES if started else ():
            figure = curves(run, started, quantity, published)
            plots.append((plot_name(quantity.name, hidden, rate), png(figure)))
        if tested:
            figure = confusion_matrix(run, tested)
            plots.append((plot_name("confusion_matrix", hidden, rate), png(figure)))
    return plots
