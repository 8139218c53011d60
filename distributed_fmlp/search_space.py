"""The hyperparameters of a random search: which there are, and between what bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

SAMPLES = 16  # unless told otherwise


@dataclass(frozen=True)
class Range:
    """Where the values of one hyperparameter come from: `low` to `high`, evenly or by logarithm."""

    name: str  # as its option is called in Python: label_smoothing
    low: float
    high: float

    @property
    def logarithmic(self) -> bool:
        """Whether a value half as large is as far away as one twice as large."""
        return self.name == "lr"

    def __str__(self) -> str:
        return f"{self.name.replace('_', '-')}={self.low!r}:{self.high!r}"


# What an option of that name would take, and how to say so.
_BOUNDS: dict[str, tuple[Callable[[float], bool], str]] = {
    "lr": (lambda value: value > 0, "above 0"),
    "dropout": (lambda value: 0 <= value < 1, "from 0 up to, but not, 1"),
    "label_smoothing": (lambda value: 0 <= value < 1, "from 0 up to, but not, 1"),
    "weight_decay": (lambda value: value >= 0, "of 0 or more"),
}
SEARCHED = tuple(_BOUNDS)
DEFAULT_SPACE = (
    Range("lr", 0.0003, 0.005),
    Range("dropout", 0.1, 0.5),
    Range("label_smoothing", 0.0, 0.2),
)


def parse_range(text: str) -> Range:
    """Read `lr=0.0003:0.005`. Raises `ValueError` that says what is wrong."""
    known = ", ".join(name.replace("_", "-") for name in SEARCHED)
    name, equals, bounds = text.partition("=")
    low_text, colon, high_text = bounds.partition(":")
    if not (equals and colon):
        raise ValueError(f"{text!r} is no range; give NAME=LOW:HIGH, such as lr=0.0003:0.005")
    key = name.replace("-", "_")
    if key not in _BOUNDS:
        raise ValueError(f"{name!r} can't be searched; give one of {known}")
    try:
        low, high = float(low_text), float(high_text)
    except ValueError:
        raise ValueError(f"{bounds!r} are not two numbers; give LOW:HIGH") from None
    holds, want = _BOUNDS[key]
    if not all(math.isfinite(bound) and holds(bound) for bound in (low, high)):
        raise ValueError(f"{bounds!r} can't be used for {name}; give two numbers {want}")
    if not low < high:
        raise ValueError(f"{bounds!r} is empty; give a LOW below its HIGH")
    return Range(key, low, high)


def search_space(given: Iterable[str], fixed: Iterable[str]) -> dict[str, Range]:
    """The ranges to search, by name: those given, or the usual ones that no option fixes.

    The learning rate is always among them. Raises `ValueError` for a bad range.
    """
    asked = {each.name: each for each in map(parse_range, given)}
    usual = {each.name: each for each in DEFAULT_SPACE}
    if not asked:
        return {name: each for name, each in usual.items() if name not in set(fixed)}
    return {"lr": usual["lr"], **asked}
