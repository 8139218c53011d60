"""A search's trials are drawn once and for all, and stopped early by what is known of others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ray.tune.schedulers import TrialScheduler

from distributed_fmlp.architecture import Architecture
from distributed_fmlp.errors import OptionError
from distributed_fmlp.options import SweepOptions, parse
from distributed_fmlp.recipe import Recipe
from distributed_fmlp.records import EpochRecord, TrialRecord
from distributed_fmlp.sweep.searching import (
    architecture_of,
    are_asked,
    asked_trials,
    described,
    early_stopping,
    recipe_of,
    stopped_early,
)

SEARCH = SweepOptions(search="random", samples=40, seed=(3,), epochs=25)


def rows(*accuracies: float) -> list[EpochRecord]:
    return [
        EpochRecord(epoch, 0.5, 0.8, 0.8, 0.5, accuracy, 0.8, 1.0, 100.0)
        for epoch, accuracy in enumerate(accuracies, 1)
    ]


def test_a_search_is_described_as_run_json_has_it() -> None:
    assert described(SweepOptions()) is None
    assert described(replace(SEARCH, space=("lr=0.001:0.01",))) == {
        "kind": "random",
        "ranges": {"lr": [0.001, 0.01]},
        "grace_epochs": 3,
        "reduction_factor": 3,
    }


def test_the_same_seed_draws_the_same_trials_and_another_seed_others() -> None:
    trials = asked_trials(SEARCH)
    assert trials == asked_trials(SEARCH)
    assert trials[:10] == asked_trials(replace(SEARCH, samples=10))
    assert not set(each.learning_rate for each in trials) & set(
        each.learning_rate for each in asked_trials(replace(SEARCH, seed=(4,)))
    )


def test_every_value_lies_in_its_range_and_learning_rates_are_drawn_by_their_logarithm() -> None:
    options = replace(SEARCH, samples=400, space=("lr=0.0001:0.01", "weight-decay=0.2:0.6"))
    trials = asked_trials(options)
    rates = [trial.learning_rate for trial in trials]
    decays = [trial.hyperparameters["weight_decay"] for trial in trials]
    assert all(0.0001 <= rate <= 0.01 for rate in rates)
    assert all(0.2 <= decay <= 0.6 for decay in decays)
    assert all(list(trial.hyperparameters) == ["weight_decay"] for trial in trials)
    assert 0.4 < sum(rate < 0.001 for rate in rates) / 400 < 0.6  # evenly, it would be 0.09
    assert 0.4 < sum(decay < 0.4 for decay in decays) / 400 < 0.6


def test_no_two_trials_share_a_learning_rate_or_a_name() -> None:
    options = replace(SEARCH, samples=300, space=("lr=0.001:0.00102",))
    trials = asked_trials(replace(options, samples=15))
    assert len({trial.trial_id for trial in trials}) == 15
    assert trials[0].trial_id == f"lr_{trials[0].learning_rate}_seed_3"


def test_a_grid_is_every_learning_rate_with_every_seed() -> None:
    options = SweepOptions(lr=(0.1, 0.2), seed=(1, 2))
    assert [(each.learning_rate, each.seed) for each in asked_trials(options)] == [
        (0.1, 1), (0.2, 1), (0.1, 2), (0.2, 2),
    ]  # fmt: skip
    assert are_asked(asked_trials(options), options)
    assert not are_asked(asked_trials(options)[1:], options)


def test_recorded_trials_must_be_such_as_the_options_could_have_drawn() -> None:
    trials = asked_trials(SEARCH)
    assert are_asked(trials, SEARCH)
    assert not are_asked(trials[1:], SEARCH)
    for changes in (
        {"seed": 4},
        {"hyperparameters": {}},
        {"hyperparameters": {"dropout": 0.9, "label_smoothing": 0.1}},
        {"trial_id": "another"},
    ):
        assert not are_asked([replace(trials[0], **changes), *trials[1:]], SEARCH)


def test_what_is_drawn_replaces_the_recipe_and_the_dropout_of_that_trial_alone() -> None:
    drawn = {"dropout": 0.25, "label_smoothing": 0.05}
    recipe = Recipe(schedule="cosine", weight_decay=0.5)
    assert recipe_of(recipe, drawn) == replace(recipe, label_smoothing=0.05)
    assert recipe_of(recipe, {}) == recipe
    architecture = Architecture(hidden=(8, 4), dropout=(0.3, 0.1))
    assert architecture_of(architecture, drawn).dropout == (0.25, 0.25)
    assert architecture_of(architecture, {"weight_decay": 0.5}) is architecture


def test_trials_of_earlier_attempts_are_held_against_those_of_this_one() -> None:
    newcomer = TrialRecord("new", 0.01, 0)
    poor = {"epoch": 3, "val_accuracy": 0.6}

    def decision(known: list[TrialRecord]) -> str:
        scheduler = early_stopping(SEARCH, known)
        assert scheduler is not None
        scheduler.on_trial_add(None, newcomer)
        return str(scheduler.on_trial_result(None, newcomer, poor))

    assert decision([]) == TrialScheduler.CONTINUE
    better = [
        replace(newcomer, trial_id=str(n), epochs=rows(0.7, 0.75, 0.8 + n / 100)) for n in range(3)
    ]
    assert decision(better) == TrialScheduler.STOP
    worse = [replace(each, epochs=rows(0.1, 0.2, 0.3)) for each in better]
    assert decision(worse) == TrialScheduler.CONTINUE
    assert early_stopping(SweepOptions(), better) is None


@pytest.mark.parametrize("epochs", [1, 2, 7, 25])
def test_any_number_of_epochs_has_a_first_rung(epochs: int) -> None:
    assert early_stopping(replace(SEARCH, epochs=epochs), []) is not None


def test_a_stopped_trial_says_how_far_it_came() -> None:
    stopped = stopped_early(TrialRecord("a", 0.1, 0, "running", epochs=rows(0.1, 0.2)), 25)
    assert stopped.status == "stopped" and stopped.ended
    assert (stopped.reason or "").startswith("stopped early after 2 of 25 epochs")


def test_a_range_with_too_few_learning_rates_is_refused() -> None:
    words = "--search random --samples 16 --space lr=0.001:0.0010001 --space dropout=0.1:0.4"
    with pytest.raises(OptionError, match=r"too few learning rates .* for 16 trials"):
        asked_trials(parse(words.split()).options)
