"""The live table of a sweep on a terminal: a row per trial, or those that matter most now."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
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


class LiveTable:
    """One row per trial, redrawn in place; on a terminal that is too low for all, the first of
    those that run, those that failed, the best so far, and a line that counts the others.
    """

    def __init__(self, trials: Sequence[TrialRecord], epochs: int, at_once: int) -> None:
        self.console: Console | None = None
        self._trials = {trial.trial_id: trial for trial in trials}
        self._epochs = epochs
        self._at_once = at_once
        self._running: set[str] = set()
        self._started = time.monotonic()
        self.shows_all = False  # whatever the terminal's height: to be the last picture

    def started(self, trial: TrialRecord) -> None:
        self._running.add(trial.trial_id)

    def epoch(self, trial: TrialRecord) -> None:
        self._trials[trial.trial_id] = trial
        self._running.add(trial.trial_id)

    def ended(self, trial: TrialRecord) -> None:
        self._trials[trial.trial_id] = trial
        self._running.discard(trial.trial_id)

    def note(self, trial: TrialRecord, text: str) -> None:
        self._trials[trial.trial_id] = trial
        if self.console is not None:
            self.console.print(f"{title(trial)}  {text}", highlight=False, markup=False)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        trials, wide = list(self._trials.values()), options.max_width >= _WIDE
        shown: Sequence[TrialRecord] = trials
        left_out: Sequence[TrialRecord] = []
        # Measured with one row, as each is one line: hundreds would be drawn in vain.
        around = len(console.render_lines(self._table(trials[:1], [], wide), options)) - 1
        if around + len(trials) > options.max_height and not self.shows_all:
            room = options.max_height - around - 1  # a line says what is left out
            shown, left_out = self._most_telling(trials, max(1, room))
        yield self._table(shown, left_out, wide)

    def _table(
        self, shown: Sequence[TrialRecord], left_out: Sequence[TrialRecord], wide: bool
    ) -> Table:
        counted = f"and {self._counted(left_out)}\n" if left_out else ""
        table = Table(
            box=box.SIMPLE_HEAD if wide else None,
            caption=counted + self._caption(),
            caption_justify="left",
            padding=(0, 1, 0, 0),
            pad_edge=False,
        )
        for heading in ("\nlr", "\nseed", "\nepoch", *_HEADINGS):
            table.add_column(heading, justify="right", no_wrap=True)
        for trial in shown:
            table.add_row(*self._cells(trial, bar_width=20 if wide else 3))
        return table

    def _most_telling(
        self, trials: Sequence[TrialRecord], room: int
    ) -> tuple[list[TrialRecord], list[TrialRecord]]:
        """As many trials as there is room for, in the order in which they matter; the others."""
        best = best_of(trials)
        kinds = ("running", "failed", "best", "finished", "stopped", "waiting")

        def rank(trial: TrialRecord) -> tuple[int, float]:
            kind, reached = self._kind(trial), best_epoch(trial.epochs)
            if kind == "running":  # they keep their places from one picture to the next
                return 0, 0.0
            if trial is best and kind != "failed":
                kind = "best"
            return kinds.index(kind), -reached.val_accuracy if reached else 0.0

        ordered = sorted(trials, key=rank)
        return ordered[:room], ordered[room:]

    def _kind(self, trial: TrialRecord) -> str:
        if trial.ended:
            return trial.status
        return "running" if trial.trial_id in self._running else "waiting"

    def _counted(self, trials: Sequence[TrialRecord]) -> str:
        """How many of each kind: 3 finished, 12 waiting."""
        words = {"stopped": "stopped early"}
        counts = Counter(map(self._kind, trials))
        order = ("running", "failed", "finished", "stopped", "waiting")
        return ", ".join(
            f"{counts[kind]} {words.get(kind, kind)}" for kind in order if counts[kind]
        )

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


def best_of(trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """The trial that has reached the highest validation accuracy so far, as the best is chosen."""
    reached = [(best, trial) for trial in trials if (best := best_epoch(trial.epochs))]
    if not reached:
        return None
    return min(reached, key=lambda pair: (-pair[0].val_accuracy, pair[0].val_loss))[1]


def title(trial: TrialRecord) -> str:
    return f"lr {trial.learning_rate:g} seed {trial.seed}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
