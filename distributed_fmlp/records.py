"""What is measured, as plain records: an epoch, a test, a trial. Every later stage reads these.

Accuracies and F1 scores are fractions in [0, 1]; losses are mean cross-entropy in nats per image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self

# A trial that was stopped early by the search has ended; a run that was stopped can be resumed.
TrialStatus = Literal["pending", "running", "finished", "stopped", "failed"]


class _Record:
    """JSON in and out for a dataclass whose fields are plain values."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Build from a mapping; unknown keys are ignored, so newer writers stay readable.

        Raises `TypeError` when a field without a default is missing.
        """
        known = {item.name for item in fields(cls)}  # type: ignore[arg-type]
        return cls(**{key: item for key, item in value.items() if key in known})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload,no-any-return]


@dataclass(frozen=True)
class EpochRecord(_Record):
    """One epoch. The training figures are those of the training passes themselves (dropout on)."""

    epoch: int  # from 1
    train_loss: float
    train_accuracy: float
    train_f1: float  # macro average over classes, as scikit-learn defines it
    val_loss: float
    val_accuracy: float
    val_f1: float
    seconds: float  # training and validation together
    images_per_second: float  # training images over the seconds spent in training steps


@dataclass(frozen=True)
class TestRecord(_Record):
    """One model on the test set."""

    __test__ = False  # not a test class, whatever its name looks like to pytest

    epoch: int
    loss: float
    accuracy: float
    f1: float  # macro
    precision_per_class: Sequence[float]
    recall_per_class: Sequence[float]
    f1_per_class: Sequence[float]
    confusion_matrix: Sequence[Sequence[int]]  # rows: true class; columns: predicted class


@dataclass(frozen=True)
class TrialRecord(_Record):
    """One trial: a learning rate and a seed, what it measured, and how it ended."""

    trial_id: str  # for example lr_0.001_seed_0
    learning_rate: float
    seed: int
    status: TrialStatus = "pending"
    reason: str | None = None  # why it failed or was stopped early
    epochs: Sequence[EpochRecord] = field(default_factory=list)
    best_epoch: int | None = None  # chosen on validation
    test_best: TestRecord | None = None  # the chosen epoch
    test_last: TestRecord | None = None  # the last epoch, to stand beside the published figures
    weights_sha256: str | None = None  # of the chosen epoch's weights.safetensors
    last_weights_sha256: str | None = None
    # threads, device (as torch names it), device_name, node, process, started
    resources: Mapping[str, Any] = field(default_factory=dict)
    # What a search gave this trial beside its learning rate, by option name; else empty.
    hyperparameters: Mapping[str, float] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether it is not being trained, or about to be."""
        return self.status in ("finished", "stopped", "failed")

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        plain = dict(value)
        plain["epochs"] = [EpochRecord.from_json(row) for row in plain.get("epochs") or []]
        for key in ("test_best", "test_last"):
            if plain.get(key) is not None:
                plain[key] = TestRecord.from_json(plain[key])
        return super().from_json(plain)


def best_epoch(epochs: Sequence[EpochRecord]) -> EpochRecord | None:
    """The epoch to choose: highest validation accuracy, then lower loss, then the earlier one."""
    if not epochs:
        return None
    return min(epochs, key=lambda row: (-row.val_accuracy, row.val_loss, row.epoch))
