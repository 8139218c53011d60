"""From checkpoints to the run directory: the trials' records, their predictions, the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distributed_fmlp import provenance
from distributed_fmlp.architecture import Architecture
from distributed_fmlp.recipe import Recipe
from distributed_fmlp.records import EpochRecord, TrialRecord
from distributed_fmlp.run_directory import Predictions, choose, load_run, save_trial
from distributed_fmlp.sweep.checkpoints import newest_state
from distributed_fmlp.sweep.searching import architecture_of, recipe_of
from distributed_fmlp.sweep.storage import Storage

if TYPE_CHECKING:
    from distributed_fmlp.bundle import Bundle
    from distributed_fmlp.training import TrialState


def record_from_facts(trial: TrialRecord, facts: Mapping[str, Any]) -> TrialRecord:
    """The record of a trial, as its checkpoint tells it."""
    told = TrialRecord.from_json(
        {
            "trial_id": trial.trial_id,
            "learning_rate": trial.learning_rate,
            "seed": trial.seed,
            "hyperparameters": trial.hyperparameters,
            "epochs": facts["history"],
            **{
                key: facts[key]
                for key in (
                    "status",
                    "reason",
                    "best_epoch",
                    "test_best",
                    "test_last",
                    "weights_sha256",
                    "last_weights_sha256",
                    "resources",
                )
                if key in facts
            },
        }
    )
    return told


def known_trials(storage: Storage, run_id: str, trials: list[TrialRecord]) -> list[TrialRecord]:
    """Each trial as far as its checkpoints go; a trial with none is as if it had never started.

    That a search has stopped a trial early is not in its checkpoints, and stays as it is told.
    """
    found = []
    for trial in trials:
        state = newest_state(storage, run_id, trial.trial_id)
        blank = TrialRecord(
            trial.trial_id,
            trial.learning_rate,
            trial.seed,
            hyperparameters=trial.hyperparameters,
        )
        known = blank if state is None else record_from_facts(blank, state.facts)
        found.append(_as_told(known, trial, "stopped"))
    return found


def lost_epochs(told: list[TrialRecord], known: list[TrialRecord]) -> dict[str, int]:
    """Trials whose records have come further than their checkpoints, with the epoch they go on at.

    A record is written after its checkpoint: where it says more, the checkpoint has been lost.
    """
    return {
        now.trial_id: len(now.epochs) + 1
        for was, now in zip(told, known, strict=True)
        if len(now.epochs) < len(was.epochs)
    }


def _as_told(record: TrialRecord, told: TrialRecord, *ends: str) -> TrialRecord:
    """A trial that has no end of its own yet, with the end that is told of it, if one of `ends`."""
    if record.status == "running" and told.status in ends:
        return replace(record, status=told.status, reason=told.reason)
    return record


def compile_trials(
    run_path: Path, storage: Storage, run_id: str, trials: list[TrialRecord]
) -> list[TrialRecord]:
    """Write every trial's files from its newest checkpoint.

    `trials` say how each ended; a trial that failed keeps its reason.
    """
    compiled = []
    for trial in trials:
        state = newest_state(storage, run_id, trial.trial_id)
        if state is None:
            record = replace(trial, epochs=[], best_epoch=None)
            save_trial(run_path, record)
        else:
            record = _as_told(record_from_facts(trial, state.facts), trial, "failed", "stopped")
            save_trial(run_path, record, _predictions(state))
        compiled.append(record)
    return compiled


def _predictions(state: TrialState) -> Predictions | None:
    if "test/predicted" not in state.tensors:
        return None
    arrays = {
        name: state.tensors[f"test/{name}"].numpy()
        for name in ("label", "predicted", "predicted_last", "confidence")
    }
    confidence = arrays.pop("confidence").astype(np.float32)
    return Predictions(
        confidence=confidence, **{name: value.astype(np.uint8) for name, value in arrays.items()}
    )


def deliver_bundle(run_path: Path, storage: Storage) -> Bundle | None:
    """Write the chosen trial's bundle into the run directory; none when no trial has finished."""
    from distributed_fmlp.bundle import write_bundle

    run = load_run(run_path)
    info = run.info
    chosen = choose(run.trials)
    if chosen is None:
        return None
    state = newest_state(storage, info["run_id"], chosen.trial_id)
    assert state is not None and chosen.best_epoch is not None and chosen.test_best is not None
    best: EpochRecord = next(row for row in chosen.epochs if row.epoch == chosen.best_epoch)
    options, drawn = info["options"], chosen.hyperparameters
    recipe = recipe_of(Recipe.from_json(options), drawn)
    architecture = architecture_of(Architecture.from_json(info["architecture"]), drawn).to_json()
    return write_bundle(
        run_path / "bundle",
        best_weights(state),
        {
            "run": info["name"],
            "trial_id": chosen.trial_id,
            "created": provenance.now(),
            "architecture": architecture,
            "hyperparameters": {
                "learning_rate": chosen.learning_rate,
                "batch_size": options["batch_size"],
                "epochs": options["epochs"],
                "optimizer": "AdamW" if recipe.weight_decay else "Adam",
                "precision": options["precision"],
                "dropout": architecture["dropout"],
                **recipe.to_json(),
            },
            "seed": chosen.seed,
            "epoch": chosen.best_epoch,
            "scaling": info["scaling"],
            "class_names": info["dataset"]["class_names"],
            "metrics": {
                "val_loss": best.val_loss,
                "val_accuracy": best.val_accuracy,
                "val_f1": best.val_f1,
                "test_loss": chosen.test_best.loss,
                "test_accuracy": chosen.test_best.accuracy,
                "test_f1": chosen.test_best.f1,
            },
            "dataset": {
                "name": info["dataset"]["name"],
                "sha256": info["dataset"]["sha256"],
                "substituted": info["dataset"]["substituted"],
            },
            "source": info["source"],
            "versions": info["versions"],
        },
    )


def best_weights(state: TrialState) -> dict[str, Any]:
    """The chosen epoch's weights; those of the latest epoch where that is the chosen one."""
    for prefix in ("best/", "model/"):
        weights = {
            name.removeprefix(prefix): value
            for name, value in state.tensors.items()
            if name.startswith(prefix)
        }
        if weights:
            return weights
    raise KeyError("a checkpoint without weights")
