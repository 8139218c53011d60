"""What the user sees while trials run: a live table on a terminal, else a line per epoch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Protocol, TextIO

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from distributed_fmlp.records import EpochRecord, TrialRecord, best_epoch

_WAITING = "soon"
_WIDE = 100  # columns of a terminal that has room for long bars
_HEADINGS = (
    "train\nloss",
    "train\nacc %",
    "train\nF1",
    "val.\nloss",
    "val.\nacc %",
    "val.\nF1",
    "best\n@epoch",
    "time\nleft",
)


class Progress(Protocol):
    """Told of each event by the sweep."""

    def epoch(self, trial: TrialRecord) -> None:
        """A trial has finished its latest epoch."""

    def ended(self, trial: TrialRecord) -> None:
        """A trial has finished, or failed for good."""

    def note(self, trial: TrialRecord, text: str) -> None:
        """Something else has happened to a trial."""


@contextlib.contextmanager
def show_progress(
    out: TextIO, trials: Sequence[TrialRecord], epochs: int, at_once: int, *, quiet: bool
) -> Iterator[Progress]:
    """The way of showing progress that fits `out`."""
    if quiet:
        yield _Silent()
    elif out.isatty():
        console = Console(file=out)
        table = _LiveTable(trials, epochs, at_once)
        with Live(table, console=console, refresh_per_second=4, transient=False):
            table.console = console
            yield table
    else:
        yield _Lines(out, epochs)


class _Silent:
    def epoch(self, trial: TrialRecord) -> None: ...

    def ended(self, trial: TrialRecord) -> None: ...

    def note(self, trial: TrialRecord, text: str) -> None: ...


class _Lines:
    """One plain line per trial and epoch."""

    def __init__(self, out: TextIO, epochs: int) -> None:
        self._out = out
        self._epochs = epochs

    def epoch(self, trial: TrialRecord) -> None:
        row = trial.epochs[-1]
        best = best_epoch(trial.epochs) or row
        print(
            f"{_title(trial)}  epoch {row.epoch:>2}/{self._epochs}"
            f"  train loss {row.train_loss:.4f} accuracy {100 * row.train_accuracy:5.2f} %"
            f" F1 {row.train_f1:.4f}"
            f"  validation loss {row.val_loss:.4f} accuracy {100 * row.val_accuracy:5.2f} %"
            f" F1 {row.val_f1:.4f}"
            f"  best {100 * best.val_accuracy:5.2f} % (epoch {best.epoch})  {row.seconds:.1f} s",
            file=self._out,
            flush=True,
        )

    def ended(self, trial: TrialRecord) -> None:
        """Its last epoch has been shown, or a note says why there is none."""

    def note(self, trial: TrialRecord, text: str) -> None:
        print(f"{_title(trial)}  {text}", file=self._out, flush=True)


class _LiveTable:
    """One row per trial, redrawn in place."""

    def __init__(self, trials: Sequence[TrialRecord], epochs: int, at_once: int) -> None:
        self.console: Console | None = None
        self._trials = {trial.trial_id: trial for trial in trials}
        self._epochs = epochs
        self._at_once = at_once
        self._started = time.monotonic()

    def epoch(self, trial: TrialRecord) -> None:
        self._trials[trial.trial_id] = trial

    def ended(self, trial: TrialRecord) -> None:
        self._trials[trial.trial_id] = trial

    def note(self, trial: TrialRecord, text: str) -> None:
        self._trials[trial.trial_id] = trial
        if self.console is not None:
            self.console.print(f"{_title(trial)}  {text}", highlight=False, markup=False)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = options.max_width >= _WIDE
        table = Table(
            box=box.SIMPLE_HEAD if wide else None,
            caption=self._caption(),
            caption_justify="left",
            padding=(0, 1, 0, 0),
            pad_edge=False,
        )
        for heading in ("\nlr", "\nseed", "\nepoch"):
            table.add_column(heading, justify="right", no_wrap=True)
        for heading in _HEADINGS:
            table.add_column(heading, justify="right", no_wrap=True)
        for trial in list(self._trials.values()):
            table.add_row(*self._cells(trial, bar_width=20 if wide else 3))
        yield table

    def _cells(self, trial: TrialRecord, bar_width: int) -> list[str | Table]:
        done = len(trial.epochs)
        bar = Table.grid(padding=(0, 1))
        bar.add_row(f"{done:>2}/{self._epochs}", ProgressBar(self._epochs, done, width=bar_width))
        head: list[str | Table] = [f"{trial.learning_rate:g}", str(trial.seed), bar]
        best = best_epoch(trial.epochs)
        if best is None:
            return [*head, *["-"] * 7, trial.status if trial.status == "failed" else _WAITING]
        marked = f"{100 * best.val_accuracy:.2f}@{best.epoch}"
        return [*head, *_figures(trial.epochs[-1]), marked, self._left(trial)]

    def _left(self, trial: TrialRecord) -> str:
        if trial.ended:
            return "done" if trial.status == "finished" else trial.status
        missing = self._epochs - len(trial.epochs)
        return _clock(missing * trial.epochs[-1].seconds) if missing else "testing"

    def _caption(self) -> str:
        seconds = [row.seconds for trial in self._trials.values() for row in trial.epochs[-3:]]
        missing = sum(
            self._epochs - len(trial.epochs) for trial in self._trials.values() if not trial.ended
        )
        passed = f"{_clock(time.monotonic() - self._started)} passed"
        if not seconds:
            return f"{passed}, {self._at_once} trials at once; Ctrl-C stops and keeps everything"
        left = missing * sum(seconds) / len(seconds) / self._at_once
        return f"{passed}, about {_clock(left)} left; Ctrl-C stops and keeps everything"


def _figures(row: EpochRecord) -> list[str]:
    return [
        f"{row.train_loss:.4f}",
        f"{100 * row.train_accuracy:.2f}",
        f"{row.train_f1:.4f}",
        f"{row.val_loss:.4f}",
        f"{100 * row.val_accuracy:.2f}",
        f"{row.val_f1:.4f}",
    ]


def _title(trial: TrialRecord) -> str:
    return f"lr {trial.learning_rate:g} seed {trial.seed}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
