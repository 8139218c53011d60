"""Figures against their bars: what is derived from the measurements, and the table of it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MIB = 1 << 20
TIMES_AS_FAST_AS_SCRIPT = 4.0
TIMES_AS_FAST_AS_TUNE = 2.0
SHARE_OF_PRODUCT_RATE = 0.55
STRETCH_SHARE = 0.70
FIRST_STEP_SECONDS = 20.0
OVER_TRAINING_FACTOR = 1.10
OVER_TRAINING_SECONDS = 25.0
OWN_MEMORY_MIB = 200.0
DATASET_PRIVATE_MIB = 1.0
DATASET_IN_STORE = 1.1


@dataclass(frozen=True)
class Figure:
    """One measured value; `bar` is what it is to reach, None where nothing is asked."""

    what: str
    value: float  # NaN: not known
    unit: str = ""
    bar: float | None = None
    at_least: bool = False  # else at most
    spread: tuple[float, float] | None = None  # lowest and highest, where it is of several

    @property
    def met(self) -> bool | None:
        """Whether the bar is reached; None without one, or when the value isn't known."""
        if self.bar is None or math.isnan(self.value):
            return None
        return self.value >= self.bar if self.at_least else self.value <= self.bar

    def to_json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "value": None if math.isnan(self.value) else self.value,
            "unit": self.unit,
            "spread": self.spread,
            "bar": self.bar,
            "bar_is": None if self.bar is None else "at least" if self.at_least else "at most",
            "met": self.met,
        }


@dataclass(frozen=True)
class SweepEpoch:
    """Seconds for one epoch of every trial, start-up apart: the mean epoch's, the lowest, highest.

    A trial's first epoch is left out, unless it is the only one. The second epochs of all trials
    are one sweep epoch, the third another, and so on.
    """

    mean: float
    least: float
    most: float

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest."""
        return self.least, self.most

    def times(self, other: SweepEpoch) -> tuple[float, tuple[float, float]]:
        """How often `other` fits into this, by the means; and at the least and at the most."""
        return self.mean / other.mean, (self.least / other.most, self.most / other.least)


def sweep_epoch(trials: Sequence[Sequence[float]], at_once: int) -> SweepEpoch:
    """From each trial's seconds an epoch, as many for each: summed over trials, for those that run
    at once.
    """
    seconds = [sum(rows) / at_once for rows in zip(*trials, strict=True)]
    measured = seconds[1:] or seconds
    return SweepEpoch(statistics.fmean(measured), min(measured), max(measured))


def step_flop(weights: int, first_layer_weights: int, batch_size: int) -> tuple[float, float]:
    """Operations of one step, nominal and strict.

    Nominal: 2 a weight and image in each of forward, weight gradients and input gradients. Strict:
    without the gradients of the network's own input, which nothing asks for. Layers without weight
    matrices, the loss and Adam count nothing in either.
    """
    nominal = 6.0 * weights * batch_size
    return nominal, nominal - 2.0 * first_layer_weights * batch_size


def allowed_seconds(training_seconds: float, at_once: int) -> float:
    """The longest a whole sweep may take, from its trials' training seconds altogether."""
    return OVER_TRAINING_FACTOR * training_seconds / at_once + OVER_TRAINING_SECONDS


def step_figures(step: Mapping[str, Any]) -> list[Figure]:
    """The training step in isolation."""
    seconds = step["step"]["median"]
    rate = step["product_flop"] / step["product"]["median"]
    nominal, strict = step_flop(step["weights"], step["first_layer_weights"], step["batch_size"])
    figures = [
        Figure("training step, median", 1e3 * seconds, "ms"),
        Figure("matrix product 1024³ fp32, median", rate / 1e9, "GFLOP/s"),
    ]
    for count, flop in (("nominal", nominal), ("strict", strict)):
        share = flop / seconds / rate
        shown = f"step's share of that rate, {count} {flop / 1e6:.0f} MFLOP"
        figures.append(Figure(shown, share, "", SHARE_OF_PRODUCT_RATE, at_least=True))
        figures.append(Figure(f"{shown}, stretch", share, "", STRETCH_SHARE, at_least=True))
    for name, usual in step["usual"].items():
        shown = f"usual step ({name}, torch's dropout) ÷ this step"
        figures.append(Figure(shown, usual["median"] / seconds, "x"))
    return figures


def speed_figures(parts: Mapping[str, Mapping[str, Any]]) -> list[Figure]:
    """Seconds per sweep epoch of what was measured, their ratios, and whole wall times."""
    names = {
        "script": "(1) usual script",
        "tune": "(2) usual script in Ray Tune",
        "sweep": "(3) this sweep",
    }
    measured = {key: parts[key] for key in names if key in parts}
    epoch = {
        key: sweep_epoch(_column(part, "seconds"), part["at_once"])
        for key, part in measured.items()
    }
    figures = [
        Figure(f"{names[key]}: a sweep epoch", each.mean, "s", spread=each.spread)
        for key, each in epoch.items()
    ]
    bars = {"script": TIMES_AS_FAST_AS_SCRIPT, "tune": TIMES_AS_FAST_AS_TUNE}
    for key, bar in bars.items():
        if key in epoch and "sweep" in epoch:
            shown = f"{names[key][:3]} ÷ (3), a sweep epoch"
            times, spread = epoch[key].times(epoch["sweep"])
            figures.append(Figure(shown, times, "x", bar, at_least=True, spread=spread))
    for key in ("tune", "sweep"):
        if key in measured:
            rows = _column(measured[key], "time_this_iter_s")
            shown = f"{names[key]}: a sweep epoch with its report and checkpoint"
            each = sweep_epoch(rows, measured[key]["at_once"])
            figures.append(Figure(shown, each.mean, "s", spread=each.spread))
    for key, part in measured.items():
        epochs = max(len(trial["epochs"]) for trial in part["trials"])
        last = [rows[-1] for rows in _column(part, "val_accuracy")]
        figures += [
            Figure(f"{names[key]}: whole wall time, {epochs} epochs", part["wall_seconds"], "s"),
            Figure(f"{names[key]}: mean validation accuracy", 100 * statistics.fmean(last), "%"),
        ]
    return figures


def sweep_figures(sweep: Mapping[str, Any]) -> list[Figure]:
    """How long the sweep takes to begin, and what it takes beyond its training."""
    training = sum(map(sum, _column(sweep, "seconds")))
    return [
        Figure("command to first training step", sweep["first_step"], "s", FIRST_STEP_SECONDS),
        Figure(
            f"whole sweep ({OVER_TRAINING_FACTOR:.2f} x training ÷ at once + "
            f"{OVER_TRAINING_SECONDS:.0f} s)",
            sweep["wall_seconds"],
            "s",
            allowed_seconds(training, sweep["at_once"]),
        ),
    ]


def memory_figures(memory: Mapping[str, Any]) -> list[Figure]:
    """A trial's own memory beyond importing torch, and how often the data set is there."""
    figures = []
    torch_bytes = memory["torch_bytes"]
    if memory["trials"]:
        own = max(trial["own_bytes"] for trial in memory["trials"])
        figures += [
            Figure(
                "a trial's own memory beyond importing torch",
                (own - torch_bytes) / MIB,
                "MiB",
                OWN_MEMORY_MIB,
            ),
            Figure(
                "  of it, importing Ray Tune and the rest",
                (memory["imports_bytes"] - torch_bytes) / MIB,
                "MiB",
            ),
            Figure("  of it, training", (own - memory["imports_bytes"]) / MIB, "MiB"),
            Figure(
                "data set in a trial's private pages",
                max(trial["object_store_private_bytes"] for trial in memory["trials"]) / MIB,
                "MiB",
                DATASET_PRIVATE_MIB,
            ),
        ]
    if memory["object_store_bytes"] is not None:
        figures.append(
            Figure(
                "object store ÷ data set",
                memory["object_store_bytes"] / memory["dataset_bytes"],
                "x",
                DATASET_IN_STORE,
            )
        )
    return figures


def repeat_figures(sweep: Mapping[str, Any], repeat: Mapping[str, Any]) -> list[Figure]:
    """Trials of the repeated sweep whose weights are those of the first, bit for bit."""
    first = {trial["trial_id"]: trial for trial in sweep["trials"]}
    same = sum(
        all(
            trial[key] is not None and trial[key] == first[trial["trial_id"]][key]
            for key in ("weights_sha256", "last_weights_sha256")
        )
        for trial in repeat["trials"]
    )
    count = len(repeat["trials"])
    shown = f"trials with the same weights when run again, of {count}"
    return [Figure(shown, same, "", count, at_least=True)]


def all_figures(parts: Mapping[str, Mapping[str, Any]]) -> list[Figure]:
    """Every figure that the measured parts allow, in the table's order."""
    figures = speed_figures(parts)
    if "sweep" in parts:
        figures += sweep_figures(parts["sweep"])
    if "step" in parts:
        figures += step_figures(parts["step"])
    if "repeat" in parts:
        figures += memory_figures(parts["repeat"]["memory"])
        if "sweep" in parts:
            figures += repeat_figures(parts["sweep"], parts["repeat"])
    return figures


def render(figures: Sequence[Figure]) -> str:
    """The table as plain text; how far a figure spreads has a column where any does."""
    spreads = any(figure.spread for figure in figures)
    rows = [("", "measured", "min-max", "bar", "")]
    for figure in figures:
        low_high = ""
        if figure.spread:
            low, high = (_number(value, figure.unit) for value in figure.spread)
            low_high = f"{low.removesuffix(figure.unit).rstrip()}-{high}"
        bar = "" if figure.bar is None else _number(figure.bar, figure.unit)
        if bar:
            bar = f"{'≥' if figure.at_least else '≤'} {bar}"
        verdict = {True: "met", False: "not met", None: "not known" if bar else ""}[figure.met]
        rows.append((figure.what, _number(figure.value, figure.unit), low_high, bar, verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join(
            [
                f"{what:<{widths[0]}}",
                f"{value:>{widths[1]}}",
                *([f"{low_high:>{widths[2]}}"] if spreads else []),
                f"{bar:>{widths[3]}}",
                verdict,
            ]
        ).rstrip()
        for what, value, low_high, bar, verdict in rows
    )


def _column(part: Mapping[str, Any], key: str) -> list[list[float]]:
    return [[row[key] for row in trial["epochs"]] for trial in part["trials"]]


def _number(value: float, unit: str) -> str:
    if isinstance(value, int) and not unit:
        return str(value)
    if math.isnan(value):
        return "?"
    places = {"": 3, "x": 2, "ms": 2}.get(unit, 1)
    return f"{value:.{places}f} {unit}".rstrip()
