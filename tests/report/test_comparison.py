"""Learning rates compared: figures over seeds, pairs, and what is corrected for what."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_run import make_run

from distributed_fmlp.report.comparison import best_on_validation, compare_pairs, rate_figures
from distributed_fmlp.report.statistics import mcnemar, wilson_interval
from distributed_fmlp.run_directory import load_predictions, load_run, save_trial


def test_figures_over_seeds_are_means_and_deviations_of_the_chosen_epochs(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "run", seeds=(0, 1, 2), epochs=4))
    figures = rate_figures(run)
    assert [row.learning_rate for row in figures] == [0.005, 0.001, 0.0009, 0.0006]
    for row in figures:
        trials = [t for t in run.trials if t.learning_rate == row.learning_rate]
        tested = [100 * t.test_best.accuracy for t in trials if t.test_best]
        validated = [100 * max(e.val_accuracy for e in t.epochs) for t in trials]
        assert row.seeds == [0, 1, 2] and row.wilson_percent is None
        assert row.test_accuracy_percent.mean == pytest.approx(statistics.mean(tested))
        assert row.test_accuracy_percent.deviation == pytest.approx(statistics.stdev(tested))
        assert row.val_accuracy_percent.mean == pytest.approx(statistics.mean(validated))
    best = best_on_validation(figures)
    assert best is not None
    assert best.val_accuracy_percent.mean == max(r.val_accuracy_percent.mean for r in figures)
    assert best_on_validation([]) is None


def test_a_single_seed_has_wilsons_interval_in_percent(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "run", rates=(0.001,), epochs=2))
    [row] = rate_figures(run)
    [trial] = run.trials
    assert trial.test_best is not None and row.wilson_percent is not None
    wanted = wilson_interval(round(1000 * trial.test_best.accuracy), 1000)
    assert row.wilson_percent.low == pytest.approx(100 * wanted.low)
    assert row.wilson_percent.low < row.test_accuracy_percent.mean < row.wilson_percent.high


def test_all_six_pairs_of_four_rates_are_compared_and_corrected(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "run", seeds=(0, 1, 2), epochs=2))
    pairs = compare_pairs(run)
    assert len({(pair.first, pair.second) for pair in pairs}) == 6
    for pair in pairs:
        assert pair.difference and pair.images and pair.difference.n == 3
        assert pair.difference_p is not None and pair.difference.p_value is not None
        assert pair.difference_p >= pair.difference.p_value
        assert pair.images_p is not None and pair.images_p >= pair.images.p_value
    least = min(pairs, key=lambda pair: pair.difference.p_value if pair.difference else 1)
    assert least.difference and least.difference.p_value and least.difference_p
    assert least.difference_p == pytest.approx(min(1, 6 * least.difference.p_value))


def test_a_pair_of_one_seed_has_mcnemars_test_alone(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "run", rates=(0.005, 0.001), epochs=2))
    [pair] = compare_pairs(run)
    one, two = (load_predictions(run.path, trial.trial_id) for trial in run.trials)
    assert one and two and pair.images and pair.difference
    right = one.predicted == one.label, two.predicted == two.label
    only = int(np.sum(right[0] & ~right[1])), int(np.sum(right[1] & ~right[0]))
    assert (pair.images.only_first, pair.images.only_second) == only
    assert pair.images_p == mcnemar(*only)
    assert (pair.difference.interval, pair.difference_p) == (None, None)


def test_a_rate_that_is_really_better_is_found(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", rates=(0.005, 0.001), seeds=(0, 1, 2, 3, 4), epochs=2)
    run = load_run(path)
    for trial in run.trials[:5]:
        assert trial.test_best
        better = replace(trial.test_best, accuracy=trial.test_best.accuracy + 0.05)
        predictions = load_predictions(path, trial.trial_id)
        assert predictions is not None
        helped = predictions.predicted.copy()
        helped[:300] = predictions.label[:300]
        save_trial(path, replace(trial, test_best=better), replace(predictions, predicted=helped))
    [pair] = compare_pairs(load_run(path))
    assert pair.difference and pair.difference.interval and pair.difference.interval.low > 0
    assert pair.difference_p is not None and pair.difference_p < 0.05
    assert pair.images and pair.images.only_first > pair.images.only_second
    assert pair.images_p is not None and pair.images_p < 0.05


def test_trials_that_have_not_finished_or_shuffled_images_are_left_out(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", rates=(0.005, 0.001, 0.0009), seeds=(0, 1), epochs=2)
    run = load_run(path)
    save_trial(path, replace(run.trials[0], status="failed"))
    for trial in run.trials[4:]:
        predictions = load_predictions(path, trial.trial_id)
        assert predictions is not None
        save_trial(path, trial, replace(predictions, label=predictions.label[::-1].copy()))
    run = load_run(path)
    assert rate_figures(run)[0].seeds == [1]
    first, second, third = compare_pairs(run)
    assert first.difference is not None and first.difference.n == 1
    assert first.images is not None
    assert second.images is None and third.images is None and third.images_p is None
