"""One trial under Ray Tune: trains, reports and checkpoints every epoch, picks up where it was."""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from distributed_fmlp import provenance
from distributed_fmlp.bundle import weights_sha256
from distributed_fmlp.records import EpochRecord
from distributed_fmlp.sweep.checkpoints import (
    FACTS_FILE,
    newest_state,
    scratch_directory,
    write_state,
)
from distributed_fmlp.sweep.job import DIVERGED
from distributed_fmlp.sweep.storage import Storage
from distributed_fmlp.training import (
    DivergedError,
    TestOutcome,
    Trial,
    TrialConfig,
    TrialData,
    TrialState,
    prepare_process,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrialTask:
    """What a trial is to do; `config` is Tune's, holding nothing but the id of the trial."""

    run_id: str
    configs: dict[str, TrialConfig]  # by trial id
    storage: Storage
    threads: int


def train_trial(config: dict[str, Any], *, task: TrialTask, data: TrialData) -> None:
    """The function that Tune runs in a process of its own."""
    trial_id = config["trial"]["trial_id"]
    prepare_process(task.threads)
    device = assigned_device()
    trial = Trial(task.configs[trial_id], data, device)
    reporter = _Reporter(task, trial_id, trial, device)
    saved = newest_state(task.storage, task.run_id, trial_id)
    if saved is not None:
        trial.load_state(saved)
        reporter.replay(saved)
        if saved.facts["status"] != "running":
            return
    _log(f"{trial_id} starts after epoch {trial.epoch}")
    while trial.epoch < trial.config.epochs:
        try:
            record = trial.train_epoch()
            _log(f"{trial_id} has trained epoch {trial.epoch}")
        except DivergedError as error:
            # Reported, not raised: Tune would try again, and the same numbers would come out.
            reporter.diverged(f"{DIVERGED}{error}")
            return
        reporter.epoch(record)


def _log(line: str) -> None:
    """Into Ray's log of this process: what was computed where, and what was computed twice."""
    print(f"{provenance.now()} {line}", flush=True)


def assigned_device() -> torch.device:
    """The device Ray gave this process: a trial without a GPU still sees them all."""
    if not ray.get_runtime_context().get_accelerator_ids().get("GPU"):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RuntimeError(
            f"Ray assigned a GPU on {socket.gethostname()}, but this torch {torch.__version__} "
            "can't use it"
        )
    return torch.device("cuda", 0)  # Ray shows the process its own GPUs alone, from 0


class _Reporter:
    """Turns what a trial measured into Tune reports with checkpoints."""

    def __init__(self, task: TrialTask, trial_id: str, trial: Trial, device: torch.device) -> None:
        self._trial = trial
        self._task = task
        self._reported = _directory_of(tune.get_checkpoint())
        self._facts: dict[str, Any] = {
            "run_id": task.run_id,
            "trial_id": trial_id,
            "status": "running",
            "resources": {
                "threads": task.threads,
                "device": str(device),
                "device_name": torch.cuda.get_device_name(device)
                if device.type == "cuda"
                else None,
                "node": socket.gethostname(),
                "started": time.time(),
            },
        }

    def epoch(self, record: EpochRecord) -> None:
        """Report an epoch; the last one brings the test figures with it, in the same step."""
        state = self._trial.state()
        if record.epoch == self._trial.config.epochs:
            self._add_outcome(state, self._trial.test())
        self._report([record], state)

    def diverged(self, reason: str) -> None:
        self._facts |= {"status": "failed", "reason": reason}
        state = self._trial.state()
        best = self._trial.best_weights.items()  # the latest ones are spoiled
        state.tensors |= {f"best/{name}": value.cpu().contiguous() for name, value in best}
        self._report([], state)

    def replay(self, saved: TrialState) -> None:
        """Report the epochs that Tune doesn't know of: those of earlier attempts, or one whose
        checkpoint was written just before its process was killed.
        """
        unknown = self._trial.history[_epoch_of(tune.get_checkpoint()) :]
        if saved.facts["status"] != "running":
            self._facts = saved.facts
        if saved.facts["status"] == "failed":
            unknown = unknown or self._trial.history[-1:]
            self._report(unknown, saved)
        elif unknown:
            self._report(unknown, saved)

    def _report(self, records: list[EpochRecord], state: TrialState) -> None:
        """Report epochs, the last of them with the state after it."""
        sealed = TrialState(state.tensors, {**state.facts, **self._facts})
        for record in records[:-1]:
            tune.report(self._metrics(record))
        scratch = scratch_directory(self._facts["run_id"])
        scratch.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=scratch) as directory:
            write_state(Path(directory), sealed)
            # A scheduler insists on its metric, even of a trial that has none.
            nothing = {"epoch": 0, "val_accuracy": math.nan}
            metrics = self._metrics(records[-1]) if records else nothing
            # Read by the driver; Tune's own loggers pass over text.
            metrics |= {key: self._facts[key] for key in ("status", "reason") if key in self._facts}
            checkpoint = tune.Checkpoint.from_directory(directory)
            self._task.storage.patiently(lambda: tune.report(metrics, checkpoint=checkpoint))
        self._delete_older()

    def _delete_older(self) -> None:
        """Keep the checkpoint just reported alone: it holds the best weights beside the latest
        state. What another process of this trial has left is deleted when the run ends.
        """
        reported = _directory_of(tune.get_checkpoint())
        older, self._reported = self._reported, reported
        if older is None or older == reported:
            return
        try:
            self._task.storage.filesystem.delete_dir(older)
        except OSError as error:
            logger.warning("an older checkpoint stays until the run ends: %s", error)

    def _metrics(self, record: EpochRecord) -> dict[str, Any]:
        return {**record.to_json(), "process": os.getpid()}

    def _add_outcome(self, state: TrialState, outcome: TestOutcome) -> None:
        last = {
            name.removeprefix("model/"): value
            for name, value in state.tensors.items()
            if name.startswith("model/")
        }
        state.tensors |= {
            "test/label": torch.from_numpy(self._trial.data.test_labels.copy()),
            "test/predicted": torch.from_numpy(outcome.predicted),
            "test/confidence": torch.from_numpy(outcome.confidence),
            "test/predicted_last": torch.from_numpy(outcome.predicted_last),
        }
        best = {name: value.cpu() for name, value in self._trial.best_weights.items()}
        self._facts |= {
            "status": "finished",
            "test_best": outcome.best.to_json(),
            "test_last": outcome.last.to_json(),
            "weights_sha256": weights_sha256(best),
            "last_weights_sha256": weights_sha256(last),
        }


def _directory_of(checkpoint: Any) -> str | None:
    """Where Tune keeps a checkpoint, in the storage's file system."""
    return None if checkpoint is None else str(checkpoint.path)


def _epoch_of(checkpoint: Any) -> int:
    """Epochs in the checkpoint that Tune would start from; 0 when there is none to read."""
    if checkpoint is None:
        return 0
    try:
        with checkpoint.filesystem.open_input_file(f"{checkpoint.path}/{FACTS_FILE}") as file:
            return int(json.loads(file.read())["epoch"])
    except (OSError, ValueError, KeyError):
        return 0
