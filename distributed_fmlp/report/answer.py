"""What a run comes to, in a few sentences made from its numbers."""

from __future__ import annotations

from collections.abc import Sequence

from distributed_fmlp.report.comparison import PairComparison, RateFigures, best_on_validation
from distributed_fmlp.report.published import (
    PublishedRun,
    best_published,
    published_beside,
    same_data,
    why_not_beside,
)
from distributed_fmlp.report.searched import hyperparameters_of
from distributed_fmlp.report.statistics import (
    SIGNIFICANCE,
    Interval,
    independent_difference,
    interval_in_words,
    wilson_interval,
)
from distributed_fmlp.run_directory import Run, format_learning_rate


def answer(run: Run, figures: Sequence[RateFigures], pairs: Sequence[PairComparison]) -> list[str]:
    """Which learning rate is best, whether that is real, and how the published one compares."""
    best = best_on_validation(figures)
    if best is None:
        return ["No trial has finished yet, so there is no answer yet."]
    sentences = [_best_sentence(run, figures, best)]
    if len(figures) > 1:
        sentences += apart_from_others(format_learning_rate(best.learning_rate), pairs)
    if same_data(run):
        sentences += _against_published(run, figures, best)
    return sentences


def published_interval(published: PublishedRun) -> Interval:
    """Wilson's 95 % interval in percent of a published accuracy, which is one run's."""
    n = published.test_images
    interval = wilson_interval(round(n * published.test_accuracy_percent / 100), n)
    return Interval(100 * interval.low, 100 * interval.high)


def against_published(row: RateFigures, published: PublishedRun) -> str | None:
    """A learning rate's test accuracy against a published one's, in words."""
    mine = row.accuracy_interval
    if mine is None:
        return None
    difference = independent_difference(
        row.test_accuracy_percent.mean,
        mine,
        published.test_accuracy_percent,
        published_interval(published),
    )
    return interval_in_words(difference)


def joined(items: Sequence[str]) -> str:
    """Items in a sentence: a, b and c."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def range_words(interval: Interval, digits: int = 1) -> str:
    return f"{interval.low:.{digits}f} to {interval.high:.{digits}f}"


def _best_sentence(run: Run, figures: Sequence[RateFigures], best: RateFigures) -> str:
    rate = format_learning_rate(best.learning_rate)
    drawn = hyperparameters_of(run, best.learning_rate)
    rate += f" ({drawn})" if drawn else ""
    accuracy = f"{best.val_accuracy_percent.mean:.2f} %"
    over = f"the mean of {len(best.seeds)} seeds" if len(best.seeds) > 1 else "from one seed"
    if len(figures) == 1:
        asked = len({trial.learning_rate for trial in run.trials})
        only = "the only learning rate" if asked == 1 else "so far the only finished learning rate"
        return f"{rate} is {only}; its validation accuracy is {accuracy}, {over}."
    pending = sum(trial.status in ("running", "pending") for trial in run.trials)
    so_far = "So far, with trials still to finish, learning" if pending else "Learning"
    return f"{so_far} rate {rate} is the best on validation: {accuracy}, {over}."


def apart_from_others(name: str, pairs: Sequence[PairComparison]) -> list[str]:
    """Whether the group so named can be told apart from each of the others, by the test images."""
    over_seeds: dict[str, list[str]] = {}
    on_images: dict[str, list[str]] = {}
    for pair in pairs:
        if name not in (pair.first, pair.second):
            continue
        other = pair.second if pair.first == name else pair.first
        if pair.over_seeds:
            over_seeds.setdefault(_seed_words(pair, name), []).append(other)
        elif pair.images is not None:
            on_images.setdefault(_image_words(pair, name), []).append(other)
    sentences = []
    for verdicts, how in ((over_seeds, "paired over seeds"), (on_images, "by the same images")):
        if verdicts:
            parts = [words.format(others=joined(others)) for words, others in verdicts.items()]
            corrected = f", corrected for {len(pairs)} pairs" if len(pairs) > 1 else ""
            sentences.append(f"On the test set it {joined(parts)} ({how}{corrected}).")
    if on_images:
        sentences.append(
            "One seed each compares trained models; comparing learning rates takes several seeds."
        )
    return sentences


def _seed_words(pair: PairComparison, name: str) -> str:
    words = pair.difference_words
    if words.startswith("can't"):
        return "can't be told apart from {others}"
    if not words.startswith(("better", "worse")):
        return "has no spread over seeds to be judged by against {others}"
    verdict, rest = words.split(" ", 1)
    if pair.first != name:
        verdict = "worse" if verdict == "better" else "better"
    return f"is {verdict} than {{others}} {rest}"


def _image_words(pair: PairComparison, name: str) -> str:
    assert pair.images is not None and pair.images_p is not None
    if pair.images_p >= SIGNIFICANCE:
        return "can't be told apart from {others}"
    counts = pair.images.only_first, pair.images.only_second
    mine, others = counts if pair.first == name else counts[::-1]
    better = "better" if mine > others else "worse"
    return f"is {better} than {{others}} ({mine} images right alone, against {others})"


def published_claim() -> str:
    """The published best accuracy, and what it is worth."""
    named = best_published()
    return (
        f"{named.test_accuracy_percent:.2f} % for {format_learning_rate(named.learning_rate)}, is "
        f"a single run's (95 % interval {range_words(published_interval(named))} %)"
    )


def _against_published(run: Run, figures: Sequence[RateFigures], best: RateFigures) -> list[str]:
    """How this run stands to the published best, and its best rate to that rate's own figure."""
    named, claim = best_published(), published_claim()
    mine = f"{best.test_accuracy_percent.mean:.2f} %"
    if best.accuracy_interval is not None:
        mine += f" (95 % interval {range_words(best.accuracy_interval, 2)} %)"
    sentences = [f"Its test accuracy is {mine}."]
    if why_not_beside(run) is not None:
        verdict = verdict_words(against_published(best, named), "it")
        sentences.append(
            f"The best published figure, {claim} and of another recipe: this run's best {verdict}."
        )
        return sentences
    same = next((row for row in figures if row.learning_rate == named.learning_rate), None)
    if same is None:
        subject = "this run's best"
    else:
        accuracy = f"{same.test_accuracy_percent.mean:.2f} %"
        subject = f"this run's {format_learning_rate(same.learning_rate)} ({accuracy})"
    verdict = verdict_words(against_published(same or best, named), "it")
    sentences.append(f"The best published figure, {claim}: {subject} {verdict}.")
    own = published_beside(run, best.learning_rate)
    if own is not None and best is not same:
        verdict = verdict_words(
            against_published(best, own), f"its own published {own.test_accuracy_percent:.2f} %"
        )
        rate = format_learning_rate(best.learning_rate)
        sentences.append(f"Learning rate {rate} {verdict}.")
    return sentences


def verdict_words(words: str | None, other: str) -> str:
    """What `against_published` says, as the end of a sentence."""
    if words is None:
        return f"can't be set against {other}, for want of spread over seeds"
    if words.startswith("can't"):
        return f"{words} from {other}"
    verdict, rest = words.split(" ", 1)
    return f"is {verdict} than {other} {rest}"
