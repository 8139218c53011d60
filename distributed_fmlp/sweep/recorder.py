"""Listens to Tune: keeps each trial's record up to date on disk and on the screen."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import tune

from distributed_fmlp.records import EpochRecord, TrialRecord, best_epoch
from distributed_fmlp.run_directory import save_trial
from distributed_fmlp.sweep.progress import Progress
from distributed_fmlp.sweep.searching import stopped_early

_LONGEST_REASON = 200

logger = logging.getLogger(__name__)


class Recorder(tune.Callback):
    """Tune's callback for one attempt at a run.

    What it writes while trials run is for onlookers; the sweep ends by writing each trial's record
    anew from its checkpoint.
    """

    def __init__(
        self,
        run_path: Path,
        trials: Sequence[TrialRecord],
        epochs: int,
        progress: Progress,
        *,
        stops_early: bool = False,
    ) -> None:
        self.records = {trial.trial_id: trial for trial in trials}
        self._run_path = run_path
        self._epochs = epochs
        self._stops_early = stops_early
        self._progress = progress
        self._failures: dict[str, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks for Tuner.restore, which is not used here.
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._progress.started(self.records[_id(trial)])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        record = self.records[_id(trial)]
        if result.get("status") == "failed":
            self._keep(record, status="failed", reason=result["reason"])
            failed = self.records[record.trial_id]
            self._progress.ended(failed)
            self._progress.note(failed, result["reason"])
            return
        row = EpochRecord.from_json(result)
        if any(row.epoch == known.epoch for known in record.epochs):
            return  # an epoch trained again, or told again, after a restart
        rows = sorted([*record.epochs, row], key=lambda each: each.epoch)
        best = best_epoch(rows)
        self._keep(
            record,
            epochs=rows,
            best_epoch=best.epoch if best else None,
            status="running",
            resources={
                **record.resources,
                "node": result["hostname"],
                "process": result["process"],
            },
        )
        self._progress.epoch(self.records[record.trial_id])

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        record = self.records[_id(trial)]
        self._progress.note(
            record, f"failed ({reason_of(trial)}); it restarts from its last checkpoint"
        )

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        record = self.records[_id(trial)]
        self._keep(record, status="failed", reason=reason_of(trial))
        failed = self.records[record.trial_id]
        self._progress.ended(failed)
        self._progress.note(failed, f"failed for good: {failed.reason}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        record = self.records[_id(trial)]
        if len(record.epochs) >= self._epochs:
            self._keep(record, status="finished")
            self._progress.ended(self.records[record.trial_id])
        elif self._stops_early and record.status == "running":
            # To Tune a trial that its scheduler has stopped is complete.
            stopped = stopped_early(record, self._epochs)
            self._keep(record, status=stopped.status, reason=stopped.reason)
            self._progress.ended(stopped)
            self._progress.note(stopped, str(stopped.reason))

    def end_all(self, reason: str) -> None:
        """Tune itself has failed: what it had not finished has failed for good with it."""
        for record in list(self.records.values()):
            if not record.ended:
                self._keep(record, status="failed", reason=reason)
                failed = self.records[record.trial_id]
                self._progress.ended(failed)
                self._progress.note(failed, f"failed for good: {reason}")

    def _keep(self, record: TrialRecord, **changes: Any) -> None:
        changed = dataclasses.replace(record, **changes)
        self.records[record.trial_id] = changed
        onlooker = dataclasses.replace(
            changed, status="running" if changed.status == "finished" else changed.status
        )
        try:
            save_trial(self._run_path, onlooker)
        except OSError:
            logger.exception("the record of %s can't be written now", record.trial_id)


def reason_of(trial: Any) -> str:
    """Why a Tune trial failed, in one line."""
    try:
        # Tune's own get_error() looks where the file is copied to later.
        text = Path(trial.error_file).read_text(errors="replace")
    except (OSError, TypeError):
        return "no reason known"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return "no reason known"
    return f"{lines[-1][:_LONGEST_REASON]}..." if len(lines[-1]) > _LONGEST_REASON else lines[-1]


def _id(trial: Any) -> str:
    return str(trial.config["trial"]["trial_id"])
