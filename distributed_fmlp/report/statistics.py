"""What figures from few seeds and one test set can support: intervals, paired tests, words.

Pure functions of numbers. SciPy does the mathematics; Holm's correction, which it lacks, is here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Interval:
    """A confidence interval, in the unit of what it is about."""

    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, or the mean of paired differences, and how sure it is."""

    n: int
    mean: float
    deviation: float | None  # sample standard deviation (n - 1); None for one value
    interval: Interval | None  # None where one value, or values without spread, give none
    p_value: float | None  # two-sided, of a true mean of zero; None as the interval is


@dataclass(frozen=True)
class ImageTest:
    """Two learning rates on the same test images."""

    n: int  # images
    only_first: int  # images that count for the first
    only_second: int
    p_value: float  # exact, two-sided


def wilson_interval(successes: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval of a proportion, as fractions.

    It stands for one model on one test set: how far the accuracy on these `n` images may be from
    that on all images of their kind. E. B. Wilson, JASA 22 (1927). Raises `ValueError` unless
    0 <= successes <= n and n > 0.
    """
    from scipy import stats

    if n < 1:
        raise ValueError("an interval needs at least one image")
    result = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return Interval(float(result.low), float(result.high))


def estimate(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """Mean, standard deviation and Student's t interval of independent values.

    Values that are all equal have no spread to judge by: a t interval of width zero would claim
    certainty, so there is none (all zero is the exception that can be called no difference).
    """
    from scipy import stats

    n = len(values)
    if n == 0:
        raise ValueError("no values to estimate from")
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(1, mean, None, None, None)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    # Equal values can differ by rounding once they went through a subtraction.
    largest = max(abs(value) for value in values)
    if deviation <= 1e-12 * max(1.0, largest):
        return Estimate(n, mean, 0.0, None, 1.0 if largest <= 1e-12 else None)
    error = deviation / math.sqrt(n)
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * error
    p_value = 2 * float(stats.t.sf(abs(mean) / error, n - 1))
    return Estimate(n, mean, deviation, Interval(mean - half, mean + half), p_value)


def paired_difference(
    first: Mapping[int, float], second: Mapping[int, float], confidence: float = CONFIDENCE
) -> Estimate | None:
    """First minus second over the seeds both have (keys), by the paired t test; None without any.

    The same seed gives both the same initial weights and batch order, so what they share cancels.
    """
    shared = sorted(first.keys() & second.keys())
    if not shared:
        return None
    return estimate([first[seed] - second[seed] for seed in shared], confidence)


def independent_difference(
    first: float, first_interval: Interval, second: float, second_interval: Interval
) -> Interval:
    """The interval of first minus second, from each one's own interval of the same confidence.

    The square-and-add rule: G. Y. Zou and A. Donner, Statistics in Medicine 27 (2008). With two
    Wilson intervals it is R. G. Newcombe's method 10 (Statistics in Medicine 17, 1998).
    """
    difference = first - second
    down = math.hypot(first - first_interval.low, second_interval.high - second)
    up = math.hypot(first_interval.high - first, second - second_interval.low)
    return Interval(difference - down, difference + up)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value of McNemar's test, from the images that only one of two got right.

    Q. McNemar, Psychometrika 12 (1947), with the binomial distribution in place of chi-squared.
    """
    from scipy import stats

    discordant = only_first + only_second
    return float(stats.binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0


def compare_on_images(
    label: npt.NDArray[np.uint8],
    first: Sequence[npt.NDArray[np.uint8]],
    second: Sequence[npt.NDArray[np.uint8]],
) -> ImageTest:
    """The exact test of two learning rates on shared test images.

    `label` and each item of `first` and `second` are uint8 `[N]`; the items are predictions by
    seed, as many of either. An image counts for the one that got it right under more seeds: for
    one seed each this is McNemar's test, for several the sign test with an image as the unit.
    (Adding up McNemar's counts over seeds would take the same image for several independent ones.)
    """
    if len(first) != len(second) or not first:
        raise ValueError("both need predictions of the same seeds")
    right = [
        np.sum([predicted == label for predicted in group], axis=0) for group in (first, second)
    ]
    only_first, only_second = int(np.sum(right[0] > right[1])), int(np.sum(right[0] < right[1]))
    return ImageTest(len(label), only_first, only_second, mcnemar(only_first, only_second))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction: p-values adjusted for how many there are, in the order given.

    S. Holm, Scandinavian Journal of Statistics 6 (1979). None, for a pair that could not be
    tested, stays None, and still counts as one of the comparisons that were asked for.
    """
    order = sorted(
        (p_value, position) for position, p_value in enumerate(p_values) if p_value is not None
    )
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p_value, position) in enumerate(order):
        highest = max(highest, min(1.0, p_value * (len(p_values) - rank)))
        adjusted[position] = highest
    return adjusted


# Words


def difference_in_words(
    difference: Estimate | None, adjusted_p: float | None, unit: str = "points"
) -> str:
    """What a paired difference over seeds says, for `first` against `second`.

    Higher must be better. The word follows the corrected p-value, and the figures are the ends of
    the difference's own interval, which is clear of zero whenever the corrected p-value is small.
    """
    if difference is None or difference.n < 2:
        return "one seed can't tell"
    if adjusted_p is None or difference.interval is None:
        if difference.mean == 0:
            return "can't be told apart: the same in every seed"
        return "no spread over seeds to judge by"
    if adjusted_p >= SIGNIFICANCE:
        return "can't be told apart"
    low, high = sorted((abs(difference.interval.low), abs(difference.interval.high)))
    better = "better" if difference.mean > 0 else "worse"
    return f"{better} by {_range(low, high)} {unit}"


def interval_in_words(interval: Interval, unit: str = "points") -> str:
    """What the interval of one difference says, for `first` against `second`; higher is better."""
    if interval.low <= 0 <= interval.high:
        return "can't be told apart"
    low, high = sorted((abs(interval.low), abs(interval.high)))
    return f"{'better' if interval.low > 0 else 'worse'} by {_range(low, high)} {unit}"


def images_in_words(test: ImageTest, adjusted_p: float) -> str:
    """What the test on shared images says, for `first` against `second`."""
    if adjusted_p >= SIGNIFICANCE:
        return "can't be told apart"
    better = "better" if test.only_first > test.only_second else "worse"
    return f"{better}: {test.only_first} images against {test.only_second}"


def p_in_words(p_value: float | None) -> str:
    """A p-value as it is printed: two digits, and never a false zero."""
    if p_value is None:
        return "-"
    if p_value < 0.001:
        return "< 0.001"
    if p_value > 0.999:
        return "1"
    return f"{p_value:.3f}" if p_value < 0.1 else f"{p_value:.2f}"


def _range(low: float, high: float) -> str:
    """Both ends with as few digits as keep the lower one from reading 0: 0.3 to 0.7."""
    for digits in (1, 2, 3):
        if round(low, digits) > 0:
            return f"{low:.{digits}f} to {high:.{digits}f}"
    return f"less than 0.001 to {high:.3f}"
