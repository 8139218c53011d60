"""The summary of a run: what was measured, beside the published figures, and what it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distributed_fmlp.records import EpochRecord, TrialRecord, best_epoch
from distributed_fmlp.report.answer import against_published, answer
from distributed_fmlp.report.comparison import (
    PairComparison,
    RateFigures,
    best_on_validation,
    compare_pairs,
    rate_figures,
)
from distributed_fmlp.report.published import PublishedRun, published_beside, why_not_beside
from distributed_fmlp.report.searched import hyperparameter_words, search_sentence
from distributed_fmlp.report.tables import percent
from distributed_fmlp.run_directory import Run, choose


@dataclass(frozen=True)
class SummaryRow:
    """One trial. Accuracies are in percent, as published; F1 scores are fractions, macro."""

    trial_id: str
    learning_rate: float
    seed: int
    status: str
    reason: str | None
    chosen: bool
    chosen_epoch: int | None
    val_loss: float | None  # at the chosen epoch, as is the next
    val_accuracy_percent: float | None
    test_loss: float | None  # of the chosen epoch, as are the next two
    test_accuracy_percent: float | None
    test_f1: float | None
    last_epoch: int | None
    last_train_loss: float | None
    last_train_accuracy_percent: float | None
    last_test_loss: float | None
    last_test_accuracy_percent: float | None
    last_test_f1: float | None
    published_train_loss: float | None  # at the published last epoch, as is the next
    published_train_accuracy_percent: float | None
    published_test_loss: float | None
    published_test_accuracy_percent: float | None
    published_test_f1: float | None
    hyperparameters: str  # what a search gave the trial beside its learning rate, in words


@dataclass(frozen=True)
class RateRow:
    """One learning rate over its finished seeds, beside its published figures."""

    figures: RateFigures
    best_on_validation: bool
    published: PublishedRun | None
    against_published: str | None  # of the test accuracy, in words


@dataclass(frozen=True)
class Summary:
    """What the tables of one run say, in figures and in words."""

    run: str
    path: Path
    dataset: str
    status: str
    banner: str | None  # that the data was substituted
    state: str | None  # that figures are still missing
    chosen_trial: str | None
    chosen_because: str
    not_beside: str | None  # why the published figures are not beside
    search: str | None  # what became of a search's trials
    failures: Sequence[str]
    answer: Sequence[str]
    rows: Sequence[SummaryRow]
    rates: Sequence[RateRow]
    pairs: Sequence[PairComparison]


def summarize(run: Run) -> Summary:
    """Everything the tables say, from the recorded numbers alone.

    Raises `RunError` for damaged test predictions.
    """
    chosen = choose(run.trials)
    figures, pairs = rate_figures(run), compare_pairs(run)
    best = best_on_validation(figures)
    return Summary(
        run=run.info["name"],
        path=run.path,
        dataset=run.info["dataset"]["name"],
        status=run.info["status"],
        banner=substitution_banner(run),
        state=unfinished(run),
        chosen_trial=chosen.trial_id if chosen else None,
        chosen_because=chosen_because(run.trials),
        not_beside=why_not_beside(run),
        search=search_sentence(run),
        failures=[
            f"{trial.trial_id} failed: {' '.join((trial.reason or 'no reason recorded').split())}"
            for trial in run.trials
            if trial.status == "failed"
        ],
        answer=answer(run, figures, pairs),
        rows=[_row(run, trial, chosen=trial is chosen) for trial in run.trials],
        rates=[_rate_row(run, row, best=row is best) for row in figures],
        pairs=pairs,
    )


def substitution_banner(run: Run) -> str | None:
    """The warning that must stand on all that comes of a run whose data was substituted."""
    if not run.info["dataset"]["substituted"]:
        return None
    return (
        f"NOT FASHION-MNIST: {run.info['dataset']['name']} took the place of fashion-mnist, "
        "which could not be had."
    )


def unfinished(run: Run) -> str | None:
    """What is still missing of a run, in one sentence; None when every trial has ended."""
    ended = sum(trial.ended for trial in run.trials)
    status = run.info["status"]
    if status in ("finished", "failed") and ended == len(run.trials):
        return None
    # A run that was killed had no time to say so: both look alike in what is recorded.
    words = {"running": "still running, or was killed", "stopped": "stopped before its end"}
    return (
        f"Unfinished: this run is {words.get(status, status)}; {ended} of {len(run.trials)} "
        "trials have ended, and the figures are what is recorded so far."
    )


def chosen_because(trials: Sequence[TrialRecord]) -> str:
    """Which trial was chosen and why, in one sentence."""
    chosen = choose(trials)
    if chosen is None:
        return "No trial is chosen: none has finished."
    finished = [trial for trial in trials if trial.status == "finished"]
    best = _best(chosen)
    accuracy = f"{percent(best.val_accuracy)} % at epoch {best.epoch}"
    if len(finished) == 1:
        return f"{chosen.trial_id} is chosen: the only finished trial, validation {accuracy}."
    equal = [
        _best(trial)
        for trial in finished
        if trial is not chosen and trial.epochs and _best(trial).val_accuracy == best.val_accuracy
    ]
    if not equal:
        why = f"its validation accuracy, {accuracy}, is the highest of {len(finished)} finished"
        why += " trials"
    else:
        why = f"its validation accuracy, {accuracy}, is the highest, shared with {len(equal)} other"
        if all(best.val_loss < other.val_loss for other in equal):
            why += ", and its validation loss is the lower"
        elif all((best.val_loss, best.epoch) < (e.val_loss, e.epoch) for e in equal):
            why += " of the same validation loss, and its epoch is the earlier"
        else:
            why += " of the same validation loss and epoch, and it comes first"
    ahead = [
        trial.trial_id
        for trial in trials
        if trial.status == "stopped"
        and trial.epochs
        and _best(trial).val_accuracy > best.val_accuracy
    ]
    if ahead:
        why += f" (more accurate, but stopped early: {', '.join(ahead)})"
    return f"{chosen.trial_id} is chosen: {why}; the test set had no say."


def _best(trial: TrialRecord) -> EpochRecord:
    best = best_epoch(trial.epochs)
    assert best is not None, "a trial with no epoch has no best one"
    return best


def _percent(fraction: float | None) -> float | None:
    # Rounded far below what any data set can resolve, so that 0.9047 reads 90.47 in the files.
    return None if fraction is None else round(100 * fraction, 8)


def _rate_row(run: Run, figures: RateFigures, *, best: bool) -> RateRow:
    published = published_beside(run, figures.learning_rate)
    words = against_published(figures, published) if published else None
    return RateRow(figures, best, published, words)


def _row(run: Run, trial: TrialRecord, *, chosen: bool) -> SummaryRow:
    best, last = best_epoch(trial.epochs), trial.epochs[-1] if trial.epochs else None
    test, test_last = trial.test_best, trial.test_last
    published = published_beside(run, trial.learning_rate)
    return SummaryRow(
        trial_id=trial.trial_id,
        learning_rate=trial.learning_rate,
        seed=trial.seed,
        status=trial.status,
        reason=trial.reason,
        chosen=chosen,
        chosen_epoch=best.epoch if best else None,
        val_loss=best.val_loss if best else None,
        val_accuracy_percent=_percent(best.val_accuracy) if best else None,
        test_loss=test.loss if test else None,
        test_accuracy_percent=_percent(test.accuracy) if test else None,
        test_f1=test.f1 if test else None,
        last_epoch=last.epoch if last else None,
        last_train_loss=last.train_loss if last else None,
        last_train_accuracy_percent=_percent(last.train_accuracy) if last else None,
        last_test_loss=test_last.loss if test_last else None,
        last_test_accuracy_percent=_percent(test_last.accuracy) if test_last else None,
        last_test_f1=test_last.f1 if test_last else None,
        published_train_loss=published.last_train_loss if published else None,
        published_train_accuracy_percent=(
            published.last_train_accuracy_percent if published else None
        ),
        published_test_loss=published.test_loss if published else None,
        published_test_accuracy_percent=published.test_accuracy_percent if published else None,
        published_test_f1=published.test_f1 if published else None,
        hyperparameters=hyperparameter_words(trial),
    )
