"""What the user sees while trials run: a live table on a terminal, else a line per epoch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol, TextIO

from rich.console import Console
from rich.live import Live

from distributed_fmlp.records import TrialRecord, best_epoch
from distributed_fmlp.sweep.live_table import LiveTable, title


class Progress(Protocol):
    """Told of each event by the sweep."""

    def started(self, trial: TrialRecord) -> None:
        """A trial has been given a process."""

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
        table = LiveTable(trials, epochs, at_once)
        with Live(table, console=console, refresh_per_second=4, transient=False):
            table.console = console
            try:
                yield table
            finally:
                table.shows_all = True  # the last picture stays, and may scroll
    else:
        yield _Lines(out, epochs)


class _Silent:
    def started(self, trial: TrialRecord) -> None: ...

    def epoch(self, trial: TrialRecord) -> None: ...

    def ended(self, trial: TrialRecord) -> None: ...

    def note(self, trial: TrialRecord, text: str) -> None: ...


class _Lines:
    """One plain line per trial and epoch."""

    def __init__(self, out: TextIO, epochs: int) -> None:
        self._out = out
        self._epochs = epochs

    def started(self, trial: TrialRecord) -> None:
        """Its epochs will tell."""

    def epoch(self, trial: TrialRecord) -> None:
        row = trial.epochs[-1]
        best = best_epoch(trial.epochs) or row
        print(
            f"{title(trial)}  epoch {row.epoch:>2}/{self._epochs}"
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
        print(f"{title(trial)}  {text}", file=self._out, flush=True)
