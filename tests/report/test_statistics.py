"""The statistics against values worked out elsewhere, and against simulations of a known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributed_fmlp.report.statistics import (
    Estimate,
    ImageTest,
    Interval,
    compare_on_images,
    difference_in_words,
    estimate,
    holm,
    images_in_words,
    independent_difference,
    interval_in_words,
    mcnemar,
    p_in_words,
    paired_difference,
    wilson_interval,
)

# Student's sleep data (1908): hours of sleep gained by ten patients under two drugs.
DRUG_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
DRUG_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # R. G. Newcombe, Statistics in Medicine 17 (1998), table I, score method.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0000),
    ],
)
def test_wilsons_interval_is_that_of_newcombes_table(
    successes: int, n: int, low: float, high: float
) -> None:
    interval = wilson_interval(successes, n)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=6e-5)


def test_one_accuracy_on_ten_thousand_images_is_uncertain_by_six_tenths_of_a_point() -> None:
    interval = wilson_interval(9047, 10_000)
    # The score interval solves (p - x)^2 = z^2 x (1 - x) / n at both ends.
    for end in (interval.low, interval.high):
        z = abs(0.9047 - end) / math.sqrt(end * (1 - end) / 10_000)
        assert z == pytest.approx(1.959964, abs=1e-6)
    assert (interval.high - interval.low) / 2 == pytest.approx(0.00576, abs=1e-5)


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [
        # R. G. Newcombe, Statistics in Medicine 17 (1998) 873, table II, method 10.
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((10, 10), (0, 20), 0.6791, 1.0000),
    ],
)
def test_the_interval_of_a_difference_of_two_runs_is_newcombes(
    first: tuple[int, int], second: tuple[int, int], low: float, high: float
) -> None:
    interval = independent_difference(
        first[0] / first[1],
        wilson_interval(*first),
        second[0] / second[1],
        wilson_interval(*second),
    )
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=6e-5)


def test_an_interval_of_no_images_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        wilson_interval(0, 0)


def test_the_mean_of_the_sleep_data_has_rs_interval() -> None:
    result = estimate(DRUG_2)
    assert result.n == 10 and result.interval is not None
    assert (result.mean, result.deviation) == pytest.approx((2.33, 2.002249), abs=1e-6)
    assert (result.interval.low, result.interval.high) == pytest.approx(
        (0.8976775, 3.7623225), abs=1e-6
    )


def test_the_paired_sleep_data_have_rs_interval_and_p_value() -> None:
    result = paired_difference(dict(enumerate(DRUG_1)), dict(enumerate(DRUG_2)))
    assert result is not None and result.interval is not None
    assert result.mean == pytest.approx(-1.58)
    assert (result.interval.low, result.interval.high) == pytest.approx(
        (-2.4598858, -0.7001142), abs=1e-6
    )
    assert result.p_value == pytest.approx(0.002833, abs=1e-6)


def test_differences_are_paired_by_seed_and_only_over_shared_seeds() -> None:
    result = paired_difference({3: 1.0, 1: 5.0, 9: 100.0}, {1: 4.0, 3: -1.0, 7: 50.0})
    assert result is not None
    assert (result.n, result.mean) == (2, 1.5)
    assert paired_difference({1: 1.0}, {2: 1.0}) is None


def test_one_seed_gives_a_mean_and_claims_nothing_more() -> None:
    assert estimate([0.9]) == Estimate(1, 0.9, None, None, None)


def test_values_without_spread_give_no_interval() -> None:
    same = estimate([0.3, 0.1 + 0.2, 0.3])
    assert (same.interval, same.p_value) == (None, None)
    assert estimate([0.0, 0.0]).p_value == 1.0


def test_no_values_are_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        estimate([])


@pytest.mark.parametrize(
    ("only_first", "only_second", "p_value"),
    [
        # Worked out by hand from the rows of Pascal's triangle: 2 (1 + 10) / 2^10, and so on.
        (1, 9, 22 / 1024),
        (9, 1, 22 / 1024),
        (0, 10, 2 / 1024),
        (2, 4, 2 * (1 + 6 + 15) / 64),
        (3, 3, 1.0),
        (0, 0, 1.0),
        (1, 0, 1.0),
    ],
)
def test_mcnemars_exact_p_value_is_the_hand_made_one(
    only_first: int, only_second: int, p_value: float
) -> None:
    assert mcnemar(only_first, only_second) == pytest.approx(p_value, rel=1e-12)


def test_images_are_counted_where_only_one_was_right() -> None:
    label = np.array([0, 1, 2, 3, 4, 5], np.uint8)
    first = np.array([0, 1, 2, 9, 9, 9], np.uint8)
    second = np.array([0, 9, 9, 3, 9, 8], np.uint8)
    test = compare_on_images(label, [first], [second])
    assert (test.n, test.only_first, test.only_second) == (6, 2, 1)
    assert test.p_value == mcnemar(2, 1)


def test_over_seeds_an_image_counts_once_for_whoever_was_right_more_often() -> None:
    label = np.zeros(4, np.uint8)
    first = [np.array(row, np.uint8) for row in ([0, 0, 1, 1], [0, 1, 1, 1])]
    second = [np.array(row, np.uint8) for row in ([1, 0, 0, 1], [1, 0, 1, 1])]
    test = compare_on_images(label, first, second)
    # Right under (2, 0), (1, 2), (0, 1) and (0, 0) seeds.
    assert (test.only_first, test.only_second) == (1, 2)


def test_predictions_of_unequal_numbers_of_seeds_are_refused() -> None:
    label = np.zeros(3, np.uint8)
    with pytest.raises(ValueError, match="same seeds"):
        compare_on_images(label, [label], [label, label])


def test_holms_correction_is_rs() -> None:
    # p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_pair_that_could_not_be_tested_still_counts_as_a_comparison() -> None:
    assert holm([0.01, None, 0.02]) == [pytest.approx(0.03), None, pytest.approx(0.04)]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_a_p_value_nor_changes_their_order(p_values: list[float]) -> None:
    adjusted = [value for value in holm(p_values) if value is not None]
    assert len(adjusted) == len(p_values)
    bonferroni = [min(1.0, p * len(p_values)) for p in p_values]
    for raw, new, most in zip(p_values, adjusted, bonferroni, strict=True):
        assert raw <= new <= most
    by_raw = [new for _, new in sorted(zip(p_values, adjusted, strict=True))]
    assert by_raw == sorted(by_raw)


# Simulations in which the truth is known


def test_students_interval_over_five_seeds_covers_the_truth_95_times_in_100() -> None:
    draw = np.random.default_rng(1)
    covered = 0
    for _ in range(3000):
        interval = estimate(draw.normal(89.9, 0.2, 5).tolist()).interval
        assert interval is not None
        covered += interval.low <= 89.9 <= interval.high
    # Four standard errors of the simulated share either way.
    assert covered / 3000 == pytest.approx(0.95, abs=0.016)


@pytest.mark.parametrize(("truth", "n"), [(0.9, 10_000), (0.97, 360)])
def test_wilsons_interval_covers_the_truth_95_times_in_100(truth: float, n: int) -> None:
    draw = np.random.default_rng(2)
    covered = 0
    for hits in draw.binomial(n, truth, 1500):
        interval = wilson_interval(int(hits), n)
        covered += interval.low <= truth <= interval.high
    assert covered / 1500 == pytest.approx(0.95, abs=0.023)


def test_the_interval_of_a_difference_of_two_runs_covers_the_truth_95_times_in_100() -> None:
    draw = np.random.default_rng(5)
    covered, n = 0, 10_000
    for one, two in zip(draw.binomial(n, 0.9, 1500), draw.binomial(n, 0.897, 1500), strict=True):
        intervals = wilson_interval(int(one), n), wilson_interval(int(two), n)
        difference = independent_difference(one / n, intervals[0], two / n, intervals[1])
        covered += difference.low <= 0.003 <= difference.high
    assert covered / 1500 == pytest.approx(0.95, abs=0.023)


def test_equal_models_are_told_apart_on_images_no_more_than_5_times_in_100() -> None:
    draw = np.random.default_rng(3)
    label = np.zeros(2000, np.uint8)
    rejected = 0
    for _ in range(600):
        hard = draw.beta(0.35, 3.0, 2000)  # the same images are hard for every model
        groups = [[(draw.random(2000) < hard).astype(np.uint8) for _ in range(3)] for _ in range(2)]
        rejected += compare_on_images(label, *groups).p_value < 0.05
    assert 0.015 < rejected / 600 < 0.075


def test_a_better_model_is_found_on_images() -> None:
    draw = np.random.default_rng(4)
    label = np.zeros(10_000, np.uint8)
    first = (draw.random(10_000) < 0.08).astype(np.uint8)
    second = (draw.random(10_000) < 0.11).astype(np.uint8)
    test = compare_on_images(label, [first], [second])
    assert test.p_value < 1e-6
    assert images_in_words(test, test.p_value).startswith("better: ")


# Words


@pytest.mark.parametrize(
    ("difference", "adjusted", "words"),
    [
        (Estimate(5, 0.5, 0.1, Interval(0.3, 0.7), 0.001), 0.004, "better by 0.3 to 0.7 points"),
        (Estimate(5, -0.5, 0.1, Interval(-0.7, -0.3), 0.001), 0.004, "worse by 0.3 to 0.7 points"),
        (Estimate(5, 0.5, 0.1, Interval(0.02, 0.98), 0.03), 0.049, "better by 0.02 to 0.98 points"),
        (Estimate(5, 0.5, 0.1, Interval(0.3, 0.7), 0.02), 0.06, "can't be told apart"),
        (Estimate(5, 0.5, 0.0, None, None), None, "no spread over seeds to judge by"),
        (Estimate(5, 0.0, 0.0, None, 1.0), 1.0, "can't be told apart: the same in every seed"),
        (Estimate(1, 0.5, None, None, None), None, "one seed can't tell"),
        (None, None, "one seed can't tell"),
    ],
)
def test_a_difference_in_words(
    difference: Estimate | None, adjusted: float | None, words: str
) -> None:
    assert difference_in_words(difference, adjusted) == words


def test_images_in_words() -> None:
    assert images_in_words(ImageTest(100, 30, 10, 0.002), 0.01) == "better: 30 images against 10"
    assert images_in_words(ImageTest(100, 10, 30, 0.002), 0.01) == "worse: 10 images against 30"
    assert images_in_words(ImageTest(100, 30, 10, 0.002), 0.2) == "can't be told apart"


def test_an_interval_in_words() -> None:
    assert interval_in_words(Interval(-0.2, 0.4)) == "can't be told apart"
    assert interval_in_words(Interval(0.3, 0.72)) == "better by 0.3 to 0.7 points"
    assert interval_in_words(Interval(-1.67, -0.01)) == "worse by 0.01 to 1.67 points"


def test_a_printed_p_value_is_never_a_false_zero() -> None:
    printed = [p_in_words(p) for p in (None, 1e-30, 0.0212, 0.4444, 1.0)]
    assert printed == ["-", "< 0.001", "0.021", "0.44", "1"]
