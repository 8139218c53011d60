"""The learning rate of each step."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distributed_fmlp.schedule import learning_rate_at


@given(step=st.integers(0, 999), peak=st.floats(1e-9, 1e3))
def test_a_constant_rate_is_the_same_number_at_every_step(step: int, peak: float) -> None:
    assert learning_rate_at("constant", peak, step, 1000) == peak


def test_a_cosine_is_pytorchs_cosine_annealing_to_zero() -> None:
    steps, peak = 200, 0.003
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    for step in range(steps):
        ours = learning_rate_at("cosine", peak, step, steps)
        assert ours == pytest.approx(theirs.get_last_lr()[0], rel=1e-9, abs=1e-15)
        assert math.isfinite(ours) and ours > 0
        optimizer.step()
        theirs.step()
