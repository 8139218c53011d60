"""Draw a run's curves and confusion matrices, in one style, as PNG bytes.

Only matplotlib's object interface is used: no global figure, no display, no state left behind. The
colours are those of Okabe and Ito's palette, which colour-blind readers can tell apart; line styles
and marker shapes say the same once more.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from distributed_fmlp.records import EpochRecord, TrialRecord, best_epoch
from distributed_fmlp.report.published import PublishedRun, published_beside, published_hidden
from distributed_fmlp.run_directory import Run, format_learning_rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILION, BLACK, GREY = "#0072B2", "#D55E00", "#000000", "#5A5A5A"
DPI = 110

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "text.parse_math": False,  # a class may be called "$"
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": "#222222",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": "#222222",
    "ytick.labelcolor": "#222222",
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@dataclass(frozen=True)
class Quantity:
    """One thing measured each epoch on both splits, and how it is drawn."""

    name: str  # of the file and of the fields `train_<name>`, `val_<name>`
    title: str
    axis: str
    scale: float  # from the recorded unit to the drawn and published one
    published_column: int  # of the training figure; validation's is three further on


QUANTITIES = (
    Quantity("loss", "Loss", "cross-entropy loss (nats per image)", 1.0, 1),
    Quantity("accuracy", "Accuracy", "accuracy (%)", 100.0, 2),
    Quantity("f1", "Macro F1", "macro F1 score (0 to 1)", 1.0, 3),
)
SPLITS = (("train", "training", BLUE, "-"), ("val", "validation", VERMILION, "--"))


def architecture_name(hidden: Sequence[int]) -> str:
    """`Arch2` for Architecture 2, else `Arch_` and the hidden sizes joined by `x`."""
    if list(hidden) == published_hidden():
        return "Arch2"
    return "Arch_" + "x".join(str(size) for size in hidden)


def plot_name(kind: str, hidden: Sequence[int], learning_rate: float) -> str:
    """A plot's published file name; kind is loss, accuracy, f1 or confusion_matrix."""
    return f"{kind}_{architecture_name(hidden)}_lr_{format_learning_rate(learning_rate)}.png"


def draw_plots(run: Run) -> Iterator[tuple[str, bytes]]:
    """Every plot that the run's figures allow, as (file name, PNG); one set per learning rate.

    A learning rate with no epoch yet has no curves, one with no test yet no confusion matrix.
    """
    hidden = run.info["architecture"]["hidden"]
    rates = dict.fromkeys(trial.learning_rate for trial in run.trials)
    with _style():
        for rate in rates:
            trials = [trial for trial in run.trials if trial.learning_rate == rate]
            started = [trial for trial in trials if trial.epochs]
            published = published_beside(run, rate)
            for quantity in QUANTITIES if started else ():
                figure = curves(run, started, quantity, published)
                yield plot_name(quantity.name, hidden, rate), _png(figure)
            tested = [trial for trial in trials if trial.test_best is not None]
            if tested:
                figure = confusion_matrix(run, tested)
                yield plot_name("confusion_matrix", hidden, rate), _png(figure)


@contextmanager
def _style() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's own matplotlibrc must not change what is committed
        matplotlib.rcParams.update(STYLE)  # type: ignore[arg-type]
        yield


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Without the writer's version in it the same figures give the same bytes.
    figure.savefig(
        buffer, format="png", dpi=DPI, metadata={"Software": None}, pil_kwargs={"compress_level": 4}
    )
    return buffer.getvalue()


def _new_figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def _heading(figure: Figure, run: Run, left: float, title: str, note: str) -> None:
    """Title and a line of small print, flush left; the warning of substituted data goes first."""
    dataset = run.info["dataset"]
    height = figure.get_figheight()
    if dataset["substituted"]:
        title = f"{dataset['name']} IN PLACE OF fashion-mnist · {title}"
        colour = VERMILION
    else:
        title, colour = f"{title} · {dataset['name']}", BLACK
    figure.text(left, 1 - 0.30 / height, title, fontsize=12, fontweight="bold", color=colour)
    figure.text(left, 1 - 0.52 / height, note, fontsize=9, color=GREY)


def _seeds(trials: Sequence[TrialRecord]) -> str:
    seeds = [str(trial.seed) for trial in trials]
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    return f"{len(seeds)} seeds" if len(seeds) > 6 else f"seeds {', '.join(seeds)}"


def _progress(run: Run, trials: Sequence[TrialRecord]) -> str:
    """That curves are not at their end yet, or why they never get there."""
    epochs = run.info["options"].get("epochs", "?")
    parts = []
    for status, words in (("running", "still running"), ("pending", "waiting"), ("failed",) * 2):
        some = [trial for trial in trials if trial.status == status]
        if some and len(trials) == 1:
            parts.append(f"{words}: {len(some[0].epochs)} of {epochs} epochs")
        elif some:
            parts.append(f"{len(some)} {words}")
    return " · ".join(["", *parts])


# Curves


def curves(
    run: Run, trials: Sequence[TrialRecord], quantity: Quantity, published: PublishedRun | None
) -> Figure:
    """One quantity over the epochs, training and validation, of the seeds of one learning rate.

    One seed is a line. Several are a thin line each, a band from the lowest to the highest, and
    their mean. Each seed's chosen epoch is marked, and the published points are drawn in.
    """
    figure = _new_figure(7.5, 5.0)
    axes = figure.add_axes((0.095, 0.205, 0.88, 0.655))
    rate = format_learning_rate(trials[0].learning_rate)
    hidden = run.info["architecture"]["hidden"]
    network = "Architecture 2" if architecture_name(hidden) == "Arch2" else f"hidden {hidden}"
    note = f"{network} · {_seeds(trials)}{_progress(run, trials)}"
    _heading(figure, run, 0.095, f"{quantity.title} · learning rate {rate}", note)
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
    axes.set_xticks(_epoch_ticks(longest))
    axes.set_xlim(0.5 - 0.01 * longest, longest + 0.5 + 0.01 * longest)
    figure.legend(loc="lower center", bbox_to_anchor=(0.5, 0.005), ncols=3, columnspacing=2.2)
    return figure


def _epoch_ticks(longest: int) -> list[int]:
    """The first epoch and round ones after it, ten at most."""
    size = 10 ** max(0, len(str(longest)) - 2)
    step = next(step for step in (size, 2 * size, 5 * size, 10 * size) if longest / step <= 10)
    return [1, *(epoch for epoch in range(step, longest + 1, step) if epoch > 1)]


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


def _value(row: EpochRecord, split: str, quantity: Quantity) -> float:
    return quantity.scale * float(getattr(row, f"{split}_{quantity.name}"))


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
        line[: len(trial.epochs)] = [_value(row, split, quantity) for row in trial.epochs]
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
    label = f"chosen epoch ({chosen[0].epoch})" if single else "chosen epoch of each seed"
    if single:
        axes.axvline(chosen[0].epoch, color=GREY, lw=0.9, ls=":", zorder=1)
    axes.plot(
        [row.epoch for row in chosen],
        [_value(row, "val", quantity) for row in chosen],
        linestyle="none",
        marker="*",
        markersize=15 if single else 11,
        markerfacecolor=BLACK,
        markeredgecolor="white",
        markeredgewidth=0.9,
        zorder=5,
        label=label,
    )


# Confusion matrix


def confusion_matrix(run: Run, trials: Sequence[TrialRecord]) -> Figure:
    """Test images by true and predicted class at the chosen epoch: counts and shares of the row.

    Several seeds' counts are added up.
    """
    counts = np.sum([trial.test_best.confusion_matrix for trial in trials if trial.test_best], 0)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = run.info["dataset"]["class_names"]
    figure = _new_figure(8.2, 7.9)
    left = 0.135
    axes = figure.add_axes((left, 0.125, 0.775, 0.775))
    rate = format_learning_rate(trials[0].learning_rate)
    note = f"test images, and % of their true class; blank: none · {_seeds(trials)}"
    if len(trials) == 1 and trials[0].test_best:
        note += f", chosen epoch {trials[0].test_best.epoch}"
    else:
        note += " added up"
    _heading(figure, run, 0.02, f"Confusion matrix · learning rate {rate}", note)
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
