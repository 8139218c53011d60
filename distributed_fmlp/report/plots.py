"""Every plot of a run as PNG bytes, under the published file names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from distributed_fmlp.report.accuracies import AccuracyRow
from distributed_fmlp.report.accuracy_plot import accuracy_figure
from distributed_fmlp.report.confusion_plot import confusion_matrix
from distributed_fmlp.report.curve_plots import curves
from distributed_fmlp.report.plot_style import png, style
from distributed_fmlp.report.published import published_beside
from distributed_fmlp.report.quantities import QUANTITIES, architecture_name, plot_name
from distributed_fmlp.run_directory import Run


def draw_plots(run: Run, accuracies: Sequence[AccuracyRow]) -> Iterator[tuple[str, bytes]]:
    """Every plot that the run's figures allow, as (file name, PNG); one set per learning rate.

    `accuracies` go into one plot of all. A learning rate with no epoch yet has no curves, one with
    no test yet no confusion matrix.
    """
    hidden = run.info["architecture"]["hidden"]
    rates = dict.fromkeys(trial.learning_rate for trial in run.trials)
    with style():
        if accuracies:
            name = f"test_accuracy_{architecture_name(hidden)}.png"
            yield name, png(accuracy_figure(run, accuracies))
        for rate in rates:
            trials = [trial for trial in run.trials if trial.learning_rate == rate]
            started = [trial for trial in trials if trial.epochs]
            published = published_beside(run, rate)
            for quantity in QUANTITIES if started else ():
                figure = curves(run, started, quantity, published)
                yield plot_name(quantity.name, hidden, rate), png(figure)
            tested = [trial for trial in trials if trial.test_best is not None]
            if tested:
                figure = confusion_matrix(run, tested)
                yield plot_name("confusion_matrix", hidden, rate), png(figure)
