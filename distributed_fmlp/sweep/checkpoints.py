"""A trial's state as files, and the newest one that is whole.

A trial looks for its own newest intact checkpoint whenever it starts. So resuming rests on the
checkpoints alone: not on Tune's picture of them, which may be seconds old when the driver dies.
"""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distributed_fmlp.sweep.storage import Storage

if TYPE_CHECKING:
    from distributed_fmlp.training import TrialState

TENSORS_FILE = "state.safetensors"
FACTS_FILE = "state.json"
ATTEMPT = "attempt_"
CHECKPOINT = "checkpoint_"


@dataclass(frozen=True)
class Place:
    """Where a checkpoint lies in the storage, and what it says of itself."""

    parts: tuple[str, str, str]  # attempt, trial, checkpoint
    facts: dict[str, Any]

    @property
    def order(self) -> tuple[int, bool, int, str]:
        done = self.facts.get("status") != "running"
        return (
            int(self.facts["epoch"]),
            done,
            int(self.parts[0].removeprefix(ATTEMPT)),
            self.parts[2],
        )


def scratch_directory(run_id: str) -> Path:
    """Where a run's trials on this machine write checkpoints that then go to the storage.

    Its name is known to the driver, which clears away what killed processes leave in it.
    """
    return Path(tempfile.gettempdir()) / f"fmlp-{run_id}"


def write_state(directory: Path, state: TrialState) -> None:
    """Write both files of a checkpoint into an existing directory; the facts seal the tensors."""
    import safetensors.torch

    content = safetensors.torch.save(state.tensors)
    (directory / TENSORS_FILE).write_bytes(content)
    facts = {**state.facts, "sha256": hashlib.sha256(content).hexdigest()}
    (directory / FACTS_FILE).write_text(json.dumps(facts), encoding="utf-8")


def newest_state(storage: Storage, run_id: str, trial_id: str) -> TrialState | None:
    """The newest checkpoint of a trial that is whole, over all attempts at the run."""
    for place in _newest_first(storage, run_id, trial_id):
        state = _read(storage, place)
        if state is not None:
            return state
    return None


def prune(storage: Storage, run_id: str, trial_id: str) -> None:
    """Delete all of a trial's checkpoints but the newest that is whole."""
    kept: Place | None = None
    for place in _newest_first(storage, run_id, trial_id):
        if kept is None and _read(storage, place) is not None:
            kept = place
    if kept is None:
        return
    for parts in list(_places(storage, trial_id)):
        if parts != kept.parts:
            storage.patiently(functools.partial(storage.delete_directory, *parts))


def attempts(storage: Storage) -> int:
    """How many attempts at the run have left anything in the storage."""
    numbers = [
        int(name.removeprefix(ATTEMPT))
        for name in storage.directories()
        if name.startswith(ATTEMPT) and name.removeprefix(ATTEMPT).isdigit()
    ]
    return max(numbers, default=-1) + 1


def _newest_first(storage: Storage, run_id: str, trial_id: str) -> list[Place]:
    places = []
    for parts in _places(storage, trial_id):
        content = storage.read_if_whole(*parts, FACTS_FILE)
        try:
            facts = json.loads(content or b"")
            if facts["run_id"] == run_id and isinstance(facts["epoch"], int):
                places.append(Place(parts, facts))
        except (ValueError, KeyError, TypeError):
            continue  # half copied when its process was killed; an older one is whole
    return sorted(places, key=lambda place: place.order, reverse=True)


def _places(storage: Storage, trial_id: str) -> Iterator[tuple[str, str, str]]:
    for attempt in storage.directories():
        if not attempt.removeprefix(ATTEMPT).isdigit():
            continue
        for checkpoint in storage.directories(attempt, trial_id):
            if checkpoint.startswith(CHECKPOINT):
                yield attempt, trial_id, checkpoint


def _read(storage: Storage, place: Place) -> TrialState | None:
    content = storage.read_if_whole(*place.parts, TENSORS_FILE)
    if content is None:
        return None
    if hashlib.sha256(content).hexdigest() != place.facts.get("sha256"):
        return None
    # Torch takes seconds to import, and a run that is yet to begin has no state to read.
    import safetensors.torch

    from distributed_fmlp.training import TrialState

    return TrialState(safetensors.torch.load(content), place.facts)
