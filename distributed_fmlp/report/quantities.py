"""What is drawn over the epochs, and how: shared by the plots and the page's charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distributed_fmlp.records import EpochRecord
from distributed_fmlp.report.published import published_hidden
from distributed_fmlp.run_directory import format_learning_rate

BLUE, VERMILION = "#0072B2", "#D55E00"


@dataclass(frozen=True)
class Quantity:
    """One thing measured each epoch on both splits, and how it is drawn."""

    name: str  # of the file and of the fields `train_<name>`, `val_<name>`
    title: str
    axis: str
    scale: float  # from the recorded unit to the drawn and published one
    published_column: int  # of the training figure; validation's is three further on

    def of(self, row: EpochRecord, split: str) -> float:
        """An epoch's figure on the split `train` or `val`, in the unit drawn."""
        return self.scale * float(getattr(row, f"{split}_{self.name}"))


QUANTITIES = (
    Quantity("loss", "Loss", "cross-entropy loss (nats per image)", 1.0, 1),
    Quantity("accuracy", "Accuracy", "accuracy (%)", 100.0, 2),
    Quantity("f1", "Macro F1", "macro F1 score (0 to 1)", 1.0, 3),
)
SPLITS = (("train", "training", BLUE, "-"), ("val", "validation", VERMILION, "--"))


def architecture_name(hidden: Sequence[int]) -> str:
    """`Arch2` for Architecture 2, else `Arch_` and the hidden sizes joined by `x`."""
    if list(hidden) == published_hidden():
        return "Arch2"
    return "Arch_" + "x".join(str(size) for size in hidden)


def plot_name(kind: str, hidden: Sequence[int], learning_rate: float) -> str:
    """A plot's published file name; kind is loss, accuracy, f1 or confusion_matrix."""
    return f"{kind}_{architecture_name(hidden)}_lr_{format_learning_rate(learning_rate)}.png"


def epoch_ticks(longest: int) -> list[int]:
    """The first epoch and round ones after it, ten at most."""
    size = 10 ** max(0, len(str(longest)) - 2)
    step = next(step for step in (size, 2 * size, 5 * size, 10 * size) if longest / step <= 10)
    return [1, *(epoch for epoch in range(step, longest + 1, step) if epoch > 1)]
