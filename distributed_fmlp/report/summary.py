"""The summary of a run: one row per trial beside the published figures, and which was chosen."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from distributed_fmlp.records import EpochRecord, TrialRecord, best_epoch
from distributed_fmlp.report.published import published_beside, why_not_beside
from distributed_fmlp.report.tables import (
    MISSING,
    Column,
    Table,
    as_markdown,
    as_text,
    figure,
    markdown_text,
    percent,
)
from distributed_fmlp.run_directory import Run, choose, format_learning_rate


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
    failures: Sequence[str]
    rows: Sequence[SummaryRow]


def summarize(run: Run) -> Summary:
    """Everything the tables say, from the recorded numbers alone."""
    chosen = choose(run.trials)
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
        failures=[
            f"{trial.trial_id} failed: {' '.join((trial.reason or 'no reason recorded').split())}"
            for trial in run.trials
            if trial.status == "failed"
        ],
        rows=[_row(run, trial, chosen=trial is chosen) for trial in run.trials],
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
    ended = sum(trial.status in ("finished", "failed") for trial in run.trials)
    status = run.info["status"]
    if status in ("finished", "failed") and ended == len(run.trials):
        return None
    words = {"running": "still running", "stopped": "stopped before its end"}
    return (
        f"Unfinished: this run is {words.get(status, status)}; {ended} of {len(run.trials)} "
        "trials have ended, and the figures below are what is recorded so far."
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
    return f"{chosen.trial_id} is chosen: {why}; the test set had no say."


def _best(trial: TrialRecord) -> EpochRecord:
    best = best_epoch(trial.epochs)
    assert best is not None, "a trial with no epoch has no best one"
    return best


def _percent(fraction: float | None) -> float | None:
    # Rounded far below what any data set can resolve, so that 0.9047 reads 90.47 in the files.
    return None if fraction is None else round(100 * fraction, 8)


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
    )


# The same summary as tables, text, Markdown, CSV and JSON


def summary_tables(summary: Summary) -> list[Table]:
    """Two tables: the epoch chosen on validation, and the last epoch, beside the published."""
    beside = summary.not_beside is None
    with_status = any(row.status != "finished" for row in summary.rows)
    trial_columns = [Column(""), Column("rate", "learning"), Column("seed")]
    chosen_columns = [
        *trial_columns,
        *([Column("status")] if with_status else []),
        *(Column(name, "validation") for name in ("epoch", "acc %")),
        *(Column(name, "test") for name in ("loss", "acc %", "F1")),
    ]
    last_columns = [
        *trial_columns,
        Column("epoch"),
        *(Column(name, "training") for name in ("loss", "acc %")),
        *(Column(name, "test") for name in ("loss", "acc %", "F1")),
    ]
    if beside:
        chosen_columns += [Column(name, "published test") for name in ("loss", "acc %", "F1")]
        last_columns += [Column(name, "published train") for name in ("loss", "acc %")]
    chosen_rows, last_rows = [], []
    for row in summary.rows:
        mark, rate = "*" if row.chosen else "", format_learning_rate(row.learning_rate)
        chosen_cells = [mark, rate, str(row.seed), *([row.status] if with_status else [])]
        chosen_cells += [_count(row.chosen_epoch), figure(row.val_accuracy_percent, 2)]
        chosen_cells += _scores(row.test_loss, row.test_accuracy_percent, row.test_f1)
        last_cells = [mark, rate, str(row.seed), _count(row.last_epoch)]
        last_cells += _scores(row.last_train_loss, row.last_train_accuracy_percent)
        last_cells += _scores(row.last_test_loss, row.last_test_accuracy_percent, row.last_test_f1)
        if beside:
            published = (row.published_test_loss, row.published_test_accuracy_percent)
            chosen_cells += _scores(*published, row.published_test_f1)
            last_cells += _scores(row.published_train_loss, row.published_train_accuracy_percent)
        chosen_rows.append(chosen_cells)
        last_rows.append(last_cells)
    return [
        Table(
            "The epoch chosen on validation (* is the chosen trial)", chosen_columns, chosen_rows
        ),
        Table("The last epoch", last_columns, last_rows),
    ]


def _count(value: int | None) -> str:
    return MISSING if value is None else str(value)


def _scores(loss: float | None, accuracy_percent: float | None, *f1: float | None) -> list[str]:
    return [figure(loss), figure(accuracy_percent, 2), *(figure(value) for value in f1)]


def render_summary(summary: Summary) -> str:
    """The summary as plain text for a terminal, with no line end after its last line."""
    parts = [f"Run {_one_line(summary.run)} on {_one_line(summary.dataset)}"]
    parts += [as_text(table) for table in summary_tables(summary)]
    parts.append("\n".join([summary.chosen_because, *_remarks(summary)]))
    if summary.banner:
        parts = [summary.banner, *parts, summary.banner]
    return "\n\n".join(parts)


def summary_markdown(summary: Summary) -> str:
    """`summary.md`."""
    parts = [f"# Run {markdown_text(summary.run)} on {markdown_text(summary.dataset)}"]
    banner = [f"**{markdown_text(summary.banner)}**"] if summary.banner else []
    parts += banner
    parts += [markdown_text(line) for line in [summary.chosen_because, *_remarks(summary)]]
    for table in summary_tables(summary):
        heading, _, body = as_markdown(table).partition("\n\n")
        parts += [heading, *banner, body]
    return "\n\n".join(parts) + "\n"


def summary_csv(summary: Summary) -> str:
    """`summary.csv`: every figure in full, with what the data was in each row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [item.name for item in fields(SummaryRow)]
    writer.writerow([*names, "dataset", "dataset_substituted"])
    for row in summary.rows:
        values = [getattr(row, name) for name in names]
        cells = [_one_line(value) if isinstance(value, str) else value for value in values]
        writer.writerow([*cells, summary.dataset, summary.banner is not None])
    return text.getvalue()


def summary_json(summary: Summary) -> dict[str, Any]:
    """`summary.json`: the same figures and sentences, ready for `write_json`."""
    value = asdict(summary)
    del value["path"]  # the directory may be moved, and what it holds stays true
    return value


def _remarks(summary: Summary) -> list[str]:
    return [line for line in (summary.state, *summary.failures, summary.not_beside) if line]


def _one_line(text: str) -> str:
    # No control characters: a name could hold anything, and a terminal would obey them.
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
