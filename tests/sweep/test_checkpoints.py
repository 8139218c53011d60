"""Checkpoints on disk: the newest whole one is found, whatever a killed process left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from distributed_fmlp.sweep.checkpoints import attempts, newest_state, prune, write_state
from distributed_fmlp.sweep.storage import Storage, open_storage
from distributed_fmlp.training import TrialState

RUN, TRIAL = "run-id", "lr_0.001_seed_0"


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(None, tmp_path, "run")


def save(
    storage: Storage,
    attempt: int,
    number: int,
    epoch: int,
    *,
    trial: str = TRIAL,
    run: str = RUN,
    **facts: Any,
) -> Path:
    path = Path(storage.root) / f"attempt_{attempt}" / trial / f"checkpoint_{number:06}"
    path.mkdir(parents=True)
    told = {"run_id": run, "trial_id": trial, "epoch": epoch, "status": "running", **facts}
    tensors = {"model/weight": torch.full((3,), float(epoch)), "adam/0/step": torch.tensor(1.0)}
    write_state(path, TrialState(tensors, told))
    return path


def found(storage: Storage) -> tuple[int, dict[str, Any]] | None:
    state = newest_state(storage, RUN, TRIAL)
    if state is None:
        return None
    assert state.tensors["model/weight"].tolist() == [float(state.facts["epoch"])] * 3
    return state.facts["epoch"], state.facts


def epoch_found(storage: Storage) -> int | None:
    state = found(storage)
    return None if state is None else state[0]


def test_a_state_comes_back_as_it_was_written(storage: Storage) -> None:
    dropout = {"numpy": {"words": [2**64 - 1, 0]}, "torch": None}
    save(storage, 0, 0, 4, loss=0.1 + 0.2, dropout=dropout)
    state = newest_state(storage, RUN, TRIAL)
    assert state is not None
    assert state.tensors["adam/0/step"].shape == ()
    assert state.facts["loss"] == 0.1 + 0.2
    assert state.facts["dropout"] == dropout


def test_where_nothing_was_written_there_is_no_state(storage: Storage) -> None:
    assert found(storage) is None
    assert attempts(storage) == 0


def test_the_newest_is_the_one_of_the_latest_epoch_in_whatever_attempt(storage: Storage) -> None:
    save(storage, 0, 5, 6)
    save(storage, 1, 0, 2)  # an attempt that found only an older one
    assert epoch_found(storage) == 6
    save(storage, 2, 0, 7)
    assert epoch_found(storage) == 7


def test_attempts_and_checkpoints_are_ordered_as_numbers(storage: Storage) -> None:
    save(storage, 9, 9, 3, mark="older attempt")
    save(storage, 10, 0, 3, mark="newer attempt")
    state = found(storage)
    assert state is not None
    assert state[1]["mark"] == "newer attempt"
    assert attempts(storage) == 11


def test_a_finished_state_is_newer_than_a_running_one_of_the_same_epoch(storage: Storage) -> None:
    save(storage, 0, 4, 5, status="finished")
    save(storage, 1, 0, 5)
    state = found(storage)
    assert state is not None
    assert state[1]["status"] == "finished"


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / "state.safetensors").write_bytes(
            (path / "state.safetensors").read_bytes()[:-1]
        ),
        lambda path: (path / "state.safetensors").write_bytes(b""),
        lambda path: (path / "state.safetensors").unlink(),
        lambda path: (path / "state.json").unlink(),
        lambda path: (path / "state.json").write_bytes(b""),
        lambda path: (path / "state.json").write_text((path / "state.json").read_text()[:-1]),
        lambda path: (path / "state.json").write_text("[]"),
        lambda path: (path / "state.json").write_bytes(b"\xff\xfe\x00"),
        lambda path: (path / "state.json").write_text('{"run_id": "run-id"}'),
        lambda path: [file.unlink() for file in path.iterdir()],
        lambda path: shutil.copy(
            path.parent / "checkpoint_000000" / "state.safetensors", path / "state.safetensors"
        ),
        lambda path: shutil.copy(
            path.parent / "checkpoint_000000" / "state.json", path / "state.json"
        ),
    ],
    ids=[
        "tensors cut", "tensors empty", "no tensors", "no facts", "facts empty", "facts cut",
        "facts a list", "facts no text", "facts few", "nothing", "older tensors", "older facts",
    ],
)  # fmt: skip
def test_a_newest_checkpoint_that_is_not_whole_is_passed_over(
    storage: Storage, damage: Any
) -> None:
    save(storage, 0, 0, 1)
    path = save(storage, 0, 1, 2)
    assert epoch_found(storage) == 2
    damage(path)
    assert epoch_found(storage) == 1


def test_a_flipped_bit_in_the_tensors_is_noticed(storage: Storage) -> None:
    save(storage, 0, 0, 1)
    file = save(storage, 0, 1, 2) / "state.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert epoch_found(storage) == 1


def test_checkpoints_of_another_run_or_another_trial_are_not_taken(storage: Storage) -> None:
    save(storage, 0, 0, 1)
    save(storage, 0, 9, 9, run="another run of this name")
    save(storage, 0, 9, 9, trial="lr_0.001_seed_1")
    assert epoch_found(storage) == 1


def test_directories_of_other_names_are_passed_over(storage: Storage) -> None:
    save(storage, 0, 0, 1)
    root = Path(storage.root)
    shutil.copytree(root / "attempt_0", root / "attempt_x")
    shutil.copytree(root / "attempt_0", root / "other")
    (root / "attempt_0" / TRIAL / "notes").mkdir()
    (root / "attempt_7").write_text("a file")
    assert epoch_found(storage) == 1
    assert attempts(storage) == 1


def test_pruning_keeps_the_newest_whole_checkpoint_of_each_trial_alone(storage: Storage) -> None:
    save(storage, 0, 0, 1)
    kept = save(storage, 0, 1, 2)
    other = save(storage, 0, 0, 1, trial="lr_0.001_seed_1")
    damaged = save(storage, 1, 0, 3)
    (damaged / "state.safetensors").write_bytes(b"")
    prune(storage, RUN, TRIAL)
    left = {path.parent for path in Path(storage.root).rglob("state.json")}
    assert left == {kept, other}
    assert not damaged.exists()
    assert epoch_found(storage) == 2


def test_pruning_deletes_nothing_where_no_checkpoint_is_whole(storage: Storage) -> None:
    path = save(storage, 0, 0, 1)
    (path / "state.safetensors").write_bytes(b"")
    prune(storage, RUN, TRIAL)
    assert json.loads((path / "state.json").read_text())["epoch"] == 1
