"""The learning rate of each step."""

from __future__ import annotations

import math

from distributed_fmlp.recipe import Schedule


def learning_rate_at(schedule: Schedule, peak: float, step: int, steps: int) -> float:
    """The learning rate of step `step`, from 0, out of all `steps` of a trial.

    `cosine` falls from `peak` towards zero along half a cosine (Loshchilov & Hutter, 2017, without
    restarts). A function of the step alone, so that a resumed trial needs no state for it.
    """
    if schedule == "constant":
        return peak
    return 0.5 * peak * (1.0 + math.cos(math.pi * step / steps))
