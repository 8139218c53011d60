"""What a run's training cost: seconds per epoch, images per second, CPU and GPU hours."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from distributed_fmlp.records import EpochRecord, TrialRecord
from distributed_fmlp.run_directory import Run


@dataclass(frozen=True)
class EpochCost:
    """What one epoch cost, over several of them.

    Medians, as whatever else a shared machine does makes some epochs long, and a mean with them.
    """

    seconds: float  # median; of training and validation together
    least_seconds: float
    most_seconds: float
    images_per_second: float  # median; training images over the seconds spent in training steps


@dataclass(frozen=True)
class TrialCost:
    """One trial's cost."""

    trial_id: str
    epochs: int
    seconds: float  # of all its epochs
    epoch: EpochCost
    threads: float | None  # CPU threads; None where the trial recorded none
    cpu_hours: float | None
    gpu_hours: float | None  # None without a GPU


def trial_costs(run: Run) -> list[TrialCost]:
    """The cost of every trial that has an epoch, in the run's order."""
    return [_cost(run, trial) for trial in run.trials if trial.epochs]


def epoch_cost(epochs: Sequence[EpochRecord]) -> EpochCost:
    """The cost of one epoch, from those measured; there is at least one."""
    seconds = [row.seconds for row in epochs]
    return EpochCost(
        statistics.median(seconds),
        min(seconds),
        max(seconds),
        statistics.median(row.images_per_second for row in epochs),
    )


def total(values: Sequence[float | None]) -> float | None:
    """The sum; None when nothing is known."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _cost(run: Run, trial: TrialRecord) -> TrialCost:
    seconds = sum(row.seconds for row in trial.epochs)
    planned = run.info.get("resources") or {}
    threads = _number(trial.resources.get("threads"))
    if threads is None:
        threads = _number(planned.get("cpus_per_trial"))
    on_gpu = str(trial.resources.get("device")).startswith("cuda")
    gpus = _number(planned.get("gpus_per_trial")) if on_gpu else None
    return TrialCost(
        trial.trial_id,
        len(trial.epochs),
        seconds,
        epoch_cost(trial.epochs),
        threads,
        None if threads is None else threads * seconds / 3600,
        gpus * seconds / 3600 if gpus else None,
    )


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        return None
    return float(value)
