"""Compare learning rates, of one run or of several: figures over seeds, and what is real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from distributed_fmlp.records import TestRecord, TrialRecord, best_epoch
from distributed_fmlp.report.statistics import (
    Estimate,
    ImageTest,
    Interval,
    compare_on_images,
    difference_in_words,
    estimate,
    holm,
    images_in_words,
    paired_difference,
    wilson_interval,
)
from distributed_fmlp.run_directory import (
    Predictions,
    Run,
    format_learning_rate,
    load_predictions,
)


@dataclass(frozen=True)
class RateFigures:
    """One learning rate at its trials' chosen epochs, over its finished seeds.

    Accuracies are in percent, so that differences are in points.
    """

    learning_rate: float
    seeds: Sequence[int]
    val_accuracy_percent: Estimate
    test_loss: Estimate
    test_accuracy_percent: Estimate
    test_f1: Estimate
    seed_accuracies_percent: Sequence[float]  # on the test images, in the order of `seeds`
    wilson_percent: Interval | None  # of the test accuracy, for a single seed

    @property
    def accuracy_interval(self) -> Interval | None:
        """The 95 % interval of the test accuracy in percent: of the seeds, or of one seed."""
        return self.wilson_percent or self.test_accuracy_percent.interval


@dataclass(frozen=True)
class Group:
    """The finished trials of one learning rate, by seed, with a name to call them by."""

    name: str
    trials: Mapping[int, TrialRecord]
    predictions: Mapping[int, Predictions]  # of the seeds that have any


@dataclass(frozen=True)
class PairComparison:
    """The first group against the second. The p-values are corrected over all pairs."""

    first: str
    second: str
    difference: Estimate | None  # of the test accuracy in points, paired over shared seeds
    difference_p: float | None
    difference_words: str
    images: ImageTest | None  # None without predictions on the same images
    images_p: float | None
    images_words: str

    @property
    def over_seeds(self) -> bool:
        """Whether several seeds say what the learning rates do; else images compare two models."""
        return self.difference is not None and self.difference.n > 1


def rate_figures(run: Run) -> list[RateFigures]:
    """Every learning rate that has a finished trial, in the run's order."""
    return [
        _figures(rate, [trial for _, trial in sorted(by_seed.items())])
        for rate, by_seed in _finished(run).items()
    ]


def best_on_validation(figures: Sequence[RateFigures]) -> RateFigures | None:
    """The learning rate with the highest mean validation accuracy; the first of equals."""
    return max(figures, key=lambda row: row.val_accuracy_percent.mean, default=None)


def rate_groups(run: Run) -> dict[float, Group]:
    """The finished trials of every learning rate. Raises `RunError` for damaged predictions."""
    groups = {}
    for rate, by_seed in _finished(run).items():
        loaded = {
            seed: load_predictions(run.path, trial.trial_id) for seed, trial in by_seed.items()
        }
        predictions = {seed: each for seed, each in loaded.items() if each is not None}
        groups[rate] = Group(format_learning_rate(rate), by_seed, predictions)
    return groups


def compare_pairs(run: Run) -> list[PairComparison]:
    """Every pair of learning rates with a finished trial: paired over seeds, and on images.

    The differences are of the test accuracy at the epochs chosen on validation. They are looked at
    after the choice and have no say in it. Raises `RunError` for damaged predictions.
    """
    return compare_groups(list(combinations(rate_groups(run).values(), 2)))


def compare_groups(pairs: Sequence[tuple[Group, Group]]) -> list[PairComparison]:
    """Each pair, first against second, corrected for how many pairs there are."""
    differences = [
        paired_difference(_accuracies(one.trials), _accuracies(two.trials)) for one, two in pairs
    ]
    images = [_on_images(one, two) for one, two in pairs]
    difference_p = holm([each.p_value if each else None for each in differences])
    images_p = holm([each.p_value if each else None for each in images])
    return [
        PairComparison(
            one.name,
            two.name,
            differences[i],
            difference_p[i],
            difference_in_words(differences[i], difference_p[i]),
            images[i],
            images_p[i],
            _images_words(images[i], images_p[i]),
        )
        for i, (one, two) in enumerate(pairs)
    ]


def _finished(run: Run) -> dict[float, dict[int, TrialRecord]]:
    """Finished and tested trials by learning rate and seed."""
    found: dict[float, dict[int, TrialRecord]] = {}
    for trial in run.trials:
        if trial.status == "finished" and trial.test_best is not None and trial.epochs:
            found.setdefault(trial.learning_rate, {})[trial.seed] = trial
    return found


def _accuracies(by_seed: Mapping[int, TrialRecord]) -> dict[int, float]:
    return {
        seed: 100 * trial.test_best.accuracy
        for seed, trial in by_seed.items()
        if trial.test_best is not None
    }


def _figures(rate: float, trials: Sequence[TrialRecord]) -> RateFigures:
    tests = [trial.test_best for trial in trials if trial.test_best is not None]
    bests = [best for trial in trials if (best := best_epoch(trial.epochs)) is not None]
    accuracies = [100 * test.accuracy for test in tests]
    return RateFigures(
        rate,
        [trial.seed for trial in trials],
        estimate([100 * best.val_accuracy for best in bests]),
        estimate([test.loss for test in tests]),
        estimate(accuracies),
        estimate([test.f1 for test in tests]),
        accuracies,
        wilson_percent(tests[0]) if len(tests) == 1 else None,
    )


def wilson_percent(test: TestRecord) -> Interval:
    """Wilson's 95 % interval of one model's test accuracy, in percent."""
    matrix = np.asarray(test.confusion_matrix)
    interval = wilson_interval(int(np.trace(matrix)), int(matrix.sum()))
    return Interval(100 * interval.low, 100 * interval.high)


def _on_images(first: Group, second: Group) -> ImageTest | None:
    """The test on shared images over shared seeds; None where either lacks predictions."""
    seeds = sorted(first.predictions.keys() & second.predictions.keys())
    both = [(first.predictions[seed], second.predictions[seed]) for seed in seeds]
    if not both:
        return None
    label = both[0][0].label
    if not all(np.array_equal(each.label, label) for pair in both for each in pair):
        return None  # not the same images in the same order
    return compare_on_images(
        label, [one.predicted for one, _ in both], [two.predicted for _, two in both]
    )


def _images_words(test: ImageTest | None, adjusted_p: float | None) -> str:
    if test is None or adjusted_p is None:
        return "no shared predictions"
    return images_in_words(test, adjusted_p)
