"""A search over several hyperparameters: which trials there are, and which are stopped early.

The trials are drawn once, by Tune's own search spaces, and recorded in run.json: from then on a
search is resumed as a grid is. Trials are compared while they run, in whatever order they come, by
Tune's asynchronous successive halving (ASHA; Li et al., 2020).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from distributed_fmlp.architecture import Architecture
from distributed_fmlp.errors import OptionError
from distributed_fmlp.options import SweepOptions
from distributed_fmlp.recipe import RECIPE_FIELDS, Recipe
from distributed_fmlp.records import TrialRecord
from distributed_fmlp.run_directory import format_learning_rate
from distributed_fmlp.search_space import Range

if TYPE_CHECKING:
    from ray.tune.schedulers import ASHAScheduler

REDUCTION_FACTOR = 3  # of the trials that reach a rung, the best third goes on
_DIGITS = 4  # of a drawn value: as exact as anybody would type
_DRAWS_A_TRIAL = 100  # before a range is taken to hold too few learning rates


def asked_trials(options: SweepOptions) -> list[TrialRecord]:
    """The trials that the options ask for, none of them begun.

    Those of a random search follow from its seed, the version of Tune and of NumPy. Raises
    `OptionError` when its range holds too few different learning rates.
    """
    if options.search == "grid":
        return [
            TrialRecord(_trial_id(lr, seed), lr, seed) for seed in options.seed for lr in options.lr
        ]
    [seed] = options.seed
    draws = np.random.RandomState(seed)  # the kind that Tune's domains take
    trials: dict[str, TrialRecord] = {}
    for _ in range(_DRAWS_A_TRIAL * options.n_samples):
        if len(trials) == options.n_samples:
            break
        drawn = {name: _draw(each, draws) for name, each in options.ranges.items()}
        lr = drawn.pop("lr")
        # A trial is known by its learning rate, so none is drawn twice.
        trials.setdefault(
            _trial_id(lr, seed),
            TrialRecord(_trial_id(lr, seed), lr, seed, hyperparameters=drawn),
        )
    if len(trials) < options.n_samples:
        raise OptionError(
            f"--space {options.ranges['lr']} holds too few learning rates of {_DIGITS} digits for "
            f"{options.n_samples} trials ({len(trials)} were found); widen it or lower --samples"
        )
    return list(trials.values())


def are_asked(trials: list[TrialRecord], options: SweepOptions) -> bool:
    """Whether a recorded run's trials are what its options ask for.

    What was drawn is not drawn again: another version of Tune might draw otherwise.
    """
    if options.search == "grid":
        return [_identity(trial) for trial in trials] == [
            _identity(trial) for trial in asked_trials(options)
        ]
    ranges = options.ranges
    return len(trials) == options.n_samples and all(
        (trial.trial_id, trial.seed)
        == (_trial_id(trial.learning_rate, trial.seed), options.seed[0])
        and {"lr", *trial.hyperparameters} == set(ranges)
        and all(
            ranges[name].low <= value <= ranges[name].high
            for name, value in {"lr": trial.learning_rate, **trial.hyperparameters}.items()
        )
        for trial in trials
    )


def described(options: SweepOptions) -> dict[str, Any] | None:
    """A search as run.json has it; None for a grid."""
    if options.search == "grid":
        return None
    return {
        "kind": options.search,
        "ranges": {name: [each.low, each.high] for name, each in options.ranges.items()},
        "grace_epochs": _grace_epochs(options),
        "reduction_factor": REDUCTION_FACTOR,
    }


def recipe_of(recipe: Recipe, hyperparameters: Mapping[str, float]) -> Recipe:
    """A trial's recipe: the run's, with what the search gave this trial."""
    drawn = {name: value for name, value in hyperparameters.items() if name in RECIPE_FIELDS}
    return Recipe.from_json({**recipe.to_json(), **drawn})


def architecture_of(
    architecture: Architecture, hyperparameters: Mapping[str, float]
) -> Architecture:
    """A trial's network: the run's, with the dropout rate that the search gave this trial."""
    if "dropout" not in hyperparameters:
        return architecture
    rates = (float(hyperparameters["dropout"]),) * len(architecture.hidden)
    return replace(architecture, dropout=rates)


@dataclass(frozen=True)
class _Known:
    """A trial of an earlier attempt, as much of it as the scheduler looks at."""

    trial_id: str


def early_stopping(options: SweepOptions, known: Iterable[TrialRecord]) -> ASHAScheduler | None:
    """ASHA on the validation accuracy; None for a grid, whose trials all go on to their end.

    `known` are trials that have ended in earlier attempts: those now running are held against
    them too.
    """
    if options.search == "grid":
        return None
    from ray.tune.schedulers import ASHAScheduler

    scheduler = ASHAScheduler(
        time_attr="epoch",
        metric="val_accuracy",
        mode="max",
        max_t=options.epochs,
        grace_period=_grace_epochs(options),
        reduction_factor=REDUCTION_FACTOR,
    )
    for trial in known:
        stand_in: Any = _Known(trial.trial_id)
        controller: Any = None
        scheduler.on_trial_add(controller, stand_in)
        for row in trial.epochs:
            scheduler.on_trial_result(controller, stand_in, row.to_json())
    return scheduler


def stopped_early(trial: TrialRecord, epochs: int) -> TrialRecord:
    """The record of a trial that the search has stopped."""
    reason = (
        f"stopped early after {len(trial.epochs)} of {epochs} epochs: others were more accurate on "
        "validation by then"
    )
    return replace(trial, status="stopped", reason=reason)


def _grace_epochs(options: SweepOptions) -> int:
    """The epoch at which trials are first held against each other."""
    return max(1, options.epochs // 8)


def _draw(each: Range, draws: np.random.RandomState) -> float:
    from ray import tune  # a second, which only a random search takes this early

    make = tune.loguniform if each.logarithmic else tune.uniform
    value = float(make(each.low, each.high).sample(random_state=draws))
    return min(max(float(f"{value:.{_DIGITS}g}"), each.low), each.high)


def _trial_id(learning_rate: float, seed: int) -> str:
    return f"lr_{format_learning_rate(learning_rate)}_seed_{seed}"


def _identity(trial: TrialRecord) -> tuple[Any, ...]:
    return trial.trial_id, trial.learning_rate, trial.seed, dict(trial.hyperparameters)
