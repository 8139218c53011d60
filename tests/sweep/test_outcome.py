"""From checkpoints to records: what is known of trials that were cut off in whatever way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distributed_fmlp.records import EpochRecord, TestRecord, TrialRecord
from distributed_fmlp.run_directory import load_predictions
from distributed_fmlp.sweep.checkpoints import write_state
from distributed_fmlp.sweep.job import is_settled
from distributed_fmlp.sweep.outcome import (
    best_weights,
    compile_trials,
    known_trials,
    lost_epochs,
)
from distributed_fmlp.sweep.storage import Storage, open_storage
from distributed_fmlp.training import TrialState

RUN = "run-id"
TRIAL = TrialRecord("lr_0.001_seed_0", 0.001, 0)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(None, tmp_path, "run")


def row(epoch: int) -> EpochRecord:
    return EpochRecord(epoch, 0.5, 0.8, 0.8, 0.4, 0.8 + epoch / 100, 0.8, 1.0, 1000.0)


def save(storage: Storage, epoch: int, **facts: Any) -> Path:
    path = Path(storage.root) / "attempt_0" / TRIAL.trial_id / f"checkpoint_{epoch:06}"
    path.mkdir(parents=True)
    tensors = {"model/weight": torch.full((2,), float(epoch))}
    if facts.get("status") == "finished":
        tensors |= {
            "test/label": torch.tensor([1, 2]),
            "test/predicted": torch.tensor([1, 2]),
            "test/predicted_last": torch.tensor([1, 3]),
            "test/confidence": torch.tensor([0.5, 0.75]),
        }
    told = {
        "run_id": RUN,
        "trial_id": TRIAL.trial_id,
        "status": "running",
        "epoch": epoch,
        "best_epoch": epoch or None,
        "history": [row(each).to_json() for each in range(1, epoch + 1)],
        **facts,
    }
    write_state(path, TrialState(tensors, told))
    return path


def finished(storage: Storage, epoch: int) -> Path:
    test = TestRecord(epoch, 0.4, 0.9, 0.9, [0.9], [0.9], [0.9], [[2]]).to_json()
    sha = {"weights_sha256": "ab" * 32, "last_weights_sha256": "cd" * 32}
    return save(storage, epoch, status="finished", test_best=test, test_last=test, **sha)


def known(storage: Storage) -> TrialRecord:
    (record,) = known_trials(storage, RUN, [TRIAL])
    return record


def test_a_trial_without_checkpoints_is_as_if_it_had_never_started(storage: Storage) -> None:
    assert known(storage) == TRIAL


def test_a_trial_is_known_as_far_as_its_newest_checkpoint_goes(storage: Storage) -> None:
    save(storage, 2)
    save(storage, 3)
    record = known(storage)
    assert record.epochs == [row(1), row(2), row(3)]
    assert (record.status, record.best_epoch) == ("running", 3)
    assert not is_settled(record)


def test_a_finished_trial_is_settled_and_so_is_one_that_diverged(storage: Storage) -> None:
    save(storage, 1, status="failed", reason="diverged: the training loss became nan")
    assert is_settled(known(storage))
    finished(storage, 2)
    assert known(storage).status == "finished"
    assert is_settled(known(storage))


def test_a_trial_that_failed_for_another_reason_may_be_tried_again() -> None:
    assert not is_settled(TrialRecord("t", 0.1, 0, status="failed", reason="its process died"))


@pytest.mark.parametrize("older", [False, True])
def test_a_finished_trial_whose_checkpoint_was_damaged_is_not_finished(
    storage: Storage, older: bool
) -> None:
    if older:
        save(storage, 1)
    file = finished(storage, 2) / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    record = known(storage)
    assert not is_settled(record)
    assert len(record.epochs) == older


def test_epochs_whose_checkpoints_are_lost_are_named_and_no_others(storage: Storage) -> None:
    save(storage, 2)
    for recorded, lost in ((0, {}), (2, {}), (3, {TRIAL.trial_id: 3})):
        told = replace(TRIAL, epochs=[row(each) for each in range(1, recorded + 1)])
        assert lost_epochs([told], [known(storage)]) == lost


def test_compiling_writes_records_and_predictions_from_the_checkpoint(
    storage: Storage, tmp_path: Path
) -> None:
    finished(storage, 2)
    cut_off = TrialRecord(TRIAL.trial_id, 0.001, 0, status="running", epochs=[row(1)])
    (record,) = compile_trials(tmp_path, storage, RUN, [cut_off])
    assert record.status == "finished"
    assert len(record.epochs) == 2
    predictions = load_predictions(tmp_path, TRIAL.trial_id)
    assert predictions is not None
    assert predictions.predicted_last.tolist() == [1, 3]
    assert predictions.confidence.tolist() == [0.5, 0.75]


def test_compiling_keeps_why_a_trial_failed_and_the_epochs_it_has(
    storage: Storage, tmp_path: Path
) -> None:
    save(storage, 2)
    failed = TrialRecord(TRIAL.trial_id, 0.001, 0, status="failed", reason="its process died")
    (record,) = compile_trials(tmp_path, storage, RUN, [failed])
    assert (record.status, record.reason) == ("failed", "its process died")
    assert len(record.epochs) == 2


def test_the_best_weights_are_the_models_own_unless_kept_apart() -> None:
    model = {"model/weight": torch.ones(1)}
    assert best_weights(TrialState(dict(model), {}))["weight"].item() == 1
    kept = {**model, "best/weight": torch.zeros(1)}
    assert best_weights(TrialState(kept, {}))["weight"].item() == 0
