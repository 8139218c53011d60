"""A chart of the page as geometry: values in, positions and SVG paths out; a template draws it.

A chart is drawn in units that are CSS pixels at the width of a phone, so that its text stays
readable there; on wide screens several stand side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

Point = tuple[float, float]


@dataclass(frozen=True)
class Tick:
    """A labelled position on an axis."""

    at: float
    label: str


@dataclass(frozen=True)
class Shape:
    """An SVG path with the classes that style it, and what pointing at it says."""

    kind: str
    path: str
    says: str = ""


@dataclass
class Chart:
    """One chart: its frame, its ticks, and its shapes in the order they are drawn."""

    title: str
    description: str
    x_label: str
    y_label: str
    x_range: Point
    y_range: Point
    width: float = 340
    height: float = 250
    left: float = 46
    right: float = 8
    top: float = 10
    bottom: float = 40
    x_ticks: list[Tick] = field(default_factory=list)
    y_ticks: list[Tick] = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=list)

    def x(self, value: float) -> float:
        """The horizontal position of a value."""
        low, high = self.x_range
        inside = self.width - self.left - self.right
        return round(self.left + inside * (value - low) / (high - low), 2)

    def y(self, value: float) -> float:
        """The vertical position of a value; up is more."""
        low, high = self.y_range
        inside = self.height - self.top - self.bottom
        return round(self.height - self.bottom - inside * (value - low) / (high - low), 2)

    def line(self, kind: str, points: Sequence[Point], says: str = "") -> None:
        """A line through points, interrupted where one is no finite number."""
        self.shapes.append(Shape(kind, self._path(points), says))

    def _path(self, points: Sequence[Point]) -> str:
        words, pen = [], "M"
        for x, y in points:
            if not (math.isfinite(x) and math.isfinite(y)):
                pen = "M"
                continue
            words.append(f"{pen}{self.x(x):g} {self.y(y):g}")
            pen = "L"
        return "".join(words)

    def band(self, kind: str, low: Sequence[Point], high: Sequence[Point]) -> None:
        """The area between two lines."""
        whole = [*low, *reversed(high)]
        if all(math.isfinite(y) for _, y in whole):
            self.shapes.append(Shape(kind, self._path(whole) + "Z"))

    def mark(self, kind: str, shape: str, at: Point, says: str = "", size: float = 4) -> None:
        """A marker at a point: dot, diamond, square or star."""
        if all(math.isfinite(value) for value in at):
            self.shapes.append(
                Shape(kind, _marker(shape, self.x(at[0]), self.y(at[1]), size), says)
            )


def _marker(shape: str, x: float, y: float, size: float) -> str:
    if shape == "dot":
        return f"M{x - size:g} {y:g}a{size:g} {size:g} 0 1 0 {2 * size:g} 0a{size:g} {size:g} 0 1 0 {-2 * size:g} 0Z"  # noqa: E501
    corners: dict[str, list[Point]] = {
        "diamond": [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
        "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
        "star": [
            ((1.7 if i % 2 == 0 else 0.7) * math.sin(i * math.pi / 5),
             -(1.7 if i % 2 == 0 else 0.7) * math.cos(i * math.pi / 5))
            for i in range(10)
        ],
    }  # fmt: skip
    points = [f"{x + size * dx:.2f} {y + size * dy:.2f}" for dx, dy in corners[shape]]
    return "M" + "L".join(points) + "Z"


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values from at or below `low` to at or above `high`, about `most` of them at most."""
    span = high - low
    if not (math.isfinite(span) and span > 0):
        span = abs(high) or 1.0
        low, high = high - span / 2, high + span / 2
    size: float = 10 ** math.floor(math.log10(span / most))
    step = next(size * by for by in (1, 2, 5, 10, 20) if span / (size * by) <= most - 1)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * i, 10) for i in range(first, last + 1)]


def tick_labels(values: Sequence[float]) -> list[str]:
    """Labels with as many digits as tell the values apart."""
    for digits in range(6):
        labels = [f"{value:.{digits}f}" for value in values]
        exact = all(abs(float(t) - v) < 1e-9 for t, v in zip(labels, values, strict=True))
        if exact:
            return labels
    return [f"{value:g}" for value in values]


def y_axis(values: Sequence[float]) -> tuple[Point, list[float]]:
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    ticks = nice_ticks(min(finite), max(finite))
    return (ticks[0], ticks[-1]), ticks
