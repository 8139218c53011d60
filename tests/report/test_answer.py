"""The answer in sentences: every word follows from numbers set up beforehand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_run import make_run, make_test

from distributed_fmlp.report.summary import Summary, summarize
from distributed_fmlp.run_directory import load_predictions, load_run, save_trial


def run_with(path: Path, accuracies: dict[float, list[float]], images: int = 10_000) -> Summary:
    """A finished run of these test accuracies, one a seed; validation ranks by learning rate.

    The wrong images of every trial are the first ones, so that the better of two is right wherever
    the other is.
    """
    seeds = range(len(next(iter(accuracies.values()))))
    make_run(path, rates=list(accuracies), seeds=list(seeds), epochs=2, images=images)
    order = {rate: place for place, rate in enumerate(sorted(accuracies))}
    for trial in load_run(path).trials:
        predictions = load_predictions(path, trial.trial_id)
        assert predictions is not None and trial.best_epoch
        wrong = round(images * (1 - accuracies[trial.learning_rate][trial.seed]))
        predicted = predictions.label.copy()
        predicted[:wrong] = (predicted[:wrong] + 1) % 10
        level = 0.9 + 0.01 * order[trial.learning_rate]
        save_trial(
            path,
            replace(
                trial,
                epochs=[replace(row, val_accuracy=level) for row in trial.epochs],
                test_best=make_test(predictions.label, predicted, trial.best_epoch, 0.3),
            ),
            replace(predictions, predicted=predicted),
        )
    return summarize(load_run(path))


def test_a_rate_that_is_better_in_every_seed_is_said_to_be_better_by_its_interval(
    tmp_path: Path,
) -> None:
    better = [0.905, 0.906, 0.907, 0.906, 0.906]
    worse = [0.900, 0.902, 0.901, 0.901, 0.900]
    summary = run_with(tmp_path / "run", {0.002: better, 0.001: worse})
    [pair] = summary.pairs
    assert pair.difference and pair.difference.interval
    differences = np.array(better) - np.array(worse)
    half = 2.776445 * 100 * differences.std(ddof=1) / 5**0.5  # Student's t, 4 degrees of freedom
    mean = 100 * differences.mean()
    assert pair.difference.interval.low == pytest.approx(mean - half, abs=1e-4)
    assert (
        summary.answer[0]
        == "Learning rate 0.002 is the best on validation: 91.00 %, the mean of 5 seeds."
    )
    words = f"is better than 0.001 by {mean - half:.1f} to {mean + half:.1f} points"
    assert summary.answer[1] == f"On the test set it {words} (paired over seeds)."


def test_a_best_rate_that_is_worse_on_the_test_set_is_said_to_be_worse(tmp_path: Path) -> None:
    summary = run_with(tmp_path / "run", {0.001: [0.92, 0.921, 0.922], 0.002: [0.9, 0.902, 0.901]})
    assert summary.answer[0].startswith("Learning rate 0.002 is the best on validation")
    assert "it is worse than 0.001 by " in summary.answer[1]


def test_rates_within_their_noise_cannot_be_told_apart(tmp_path: Path) -> None:
    noise = [0.900, 0.903, 0.898, 0.901, 0.899]
    summary = run_with(
        tmp_path / "run", {0.003: noise, 0.002: noise[::-1], 0.001: [*noise[2:], *noise[:2]]}
    )
    assert summary.answer[1] == (
        "On the test set it can't be told apart from 0.002 and 0.001 (paired over seeds, corrected "
        "for 3 pairs)."
    )


def test_one_seed_is_judged_on_images_and_said_to_say_nothing_of_learning_rates(
    tmp_path: Path,
) -> None:
    summary = run_with(tmp_path / "run", {0.002: [0.91], 0.001: [0.90]})
    assert summary.answer[1:3] == [
        "On the test set it is better than 0.001 (100 images right alone, against 0) (by the same "
        "images).",
        "One seed each compares trained models; comparing learning rates takes several seeds.",
    ]
    [pair] = summary.pairs
    assert pair.difference_words == "one seed can't tell"


def test_the_published_best_is_a_single_run_with_its_interval(tmp_path: Path) -> None:
    seeds = [0.9045, 0.9050, 0.9040]
    path = tmp_path / "run"
    run_with(path, {0.001: seeds, 0.0006: [0.9, 0.9, 0.901]})
    info = load_run(path).info
    assert info["options"]["epochs"] == 25  # the recipe that was published
    summary = summarize(load_run(path))
    assert summary.answer[-1] == (
        "The best published figure, 90.47 % for 0.001, is a single run's (95 % interval 89.9 to "
        "91.0 %): this run's 0.001 (90.45 %) can't be told apart from it."
    )
    assert [row.against_published for row in summary.rates] == ["can't be told apart"] * 2


def test_figures_far_from_the_published_are_told_apart(tmp_path: Path) -> None:
    summary = run_with(tmp_path / "run", {0.001: [0.88], 0.0009: [0.93]})
    words = {row.figures.learning_rate: row.against_published for row in summary.rates}
    assert str(words[0.001]).startswith("worse by 1.") and str(words[0.0009]).startswith(
        "better by 2."
    )
    assert "this run's 0.001 (88.00 %) is worse than it by 1." in summary.answer[-1]


def test_a_run_with_nothing_finished_has_no_answer(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", status="running", epochs=2)
    for trial in load_run(path).trials:
        save_trial(path, replace(trial, status="running", test_best=None, test_last=None))
    assert summarize(load_run(path)).answer == [
        "No trial has finished yet, so there is no answer yet."
    ]
