"""What a trial does beyond the published recipe, as plain data: with its defaults, nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

Schedule = Literal["constant", "cosine"]
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)


@dataclass(frozen=True)
class Recipe:
    """Additions to the published recipe. Checked where they were given."""

    schedule: Schedule = "constant"  # of the learning rate, step by step
    label_smoothing: float = 0.0  # share of each label that is spread evenly over all classes
    weight_decay: float = 0.0  # decoupled from the gradient (AdamW); of the weight matrices

    @property
    def additions(self) -> list[str]:
        """What is added to the published recipe, a few words each."""
        words = []
        if self.schedule != "constant":
            words.append(f"a {self.schedule} learning-rate schedule for a constant rate")
        words += [
            f"{name.replace('_', ' ')} {getattr(self, name)} for none"
            for name in RECIPE_FIELDS
            if name != "schedule" and getattr(self, name)
        ]
        return words

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Recipe:
        """From recorded options; an addition that they don't name has its default.

        What was recorded before an addition existed doesn't name it.
        """
        return cls(**{name: value[name] for name in RECIPE_FIELDS if name in value})


RECIPE_FIELDS: tuple[str, ...] = tuple(item.name for item in fields(Recipe))
