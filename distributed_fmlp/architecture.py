"""The shape of a network, as plain data: what options ask for and manifests record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ARCHITECTURE_2_HIDDEN = (1024, 512, 256, 128)
DROPOUT = 0.3


@dataclass(frozen=True)
class Architecture:
    """Sizes of a fully connected classifier.

    `dropout` holds one rate per hidden layer.
    """

    input: int = 784
    hidden: tuple[int, ...] = ARCHITECTURE_2_HIDDEN
    output: int = 10
    dropout: tuple[float, ...] = (DROPOUT,) * len(ARCHITECTURE_2_HIDDEN)

    def __post_init__(self) -> None:
        if len(self.dropout) != len(self.hidden):
            raise ValueError(f"{len(self.dropout)} dropout rates for {len(self.hidden)} layers")

    def to_json(self) -> dict[str, Any]:
        return {
            "input": self.input,
            "hidden": list(self.hidden),
            "output": self.output,
            "dropout": list(self.dropout),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Architecture:
        """Raises `KeyError`, `TypeError` or `ValueError` when the mapping is no architecture."""
        dropout: Sequence[Any] = value["dropout"]
        return cls(
            input=int(value["input"]),
            hidden=tuple(int(size) for size in value["hidden"]),
            output=int(value["output"]),
            dropout=tuple(float(rate) for rate in dropout),
        )
