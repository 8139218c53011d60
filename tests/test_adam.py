"""The project's Adam is PyTorch's, to the last bit."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional

from distributed_fmlp.adam import Adam


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 3))


def train(model: nn.Module, optimizer: Adam | torch.optim.Adam, steps: range) -> None:
    for step in steps:
        draw = torch.Generator().manual_seed(step)
        images = torch.randn(16, 12, generator=draw)
        labels = torch.randint(0, 3, (16,), generator=draw)
        model.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(mine, theirs) for mine, theirs in pairs)


def test_thirty_steps_give_the_bits_of_torchs_fused_adam() -> None:
    mine, theirs = network(), network()
    train(mine, Adam(mine.parameters(), 0.005), range(30))
    train(theirs, torch.optim.Adam(theirs.parameters(), lr=0.005, fused=True), range(30))
    assert same(mine, theirs)
    assert not same(mine, network())


def test_with_a_weight_decay_they_are_those_of_torchs_fused_adamw_for_matrices() -> None:
    mine, theirs = network(), network()
    train(mine, Adam(mine.parameters(), 0.005, 0.2), range(30))
    matrices = [each for each in theirs.parameters() if each.dim() > 1]
    others = [each for each in theirs.parameters() if each.dim() == 1]
    groups = [{"params": others, "weight_decay": 0.0}, {"params": matrices, "weight_decay": 0.2}]
    train(theirs, torch.optim.AdamW(groups, lr=0.005, fused=True), range(30))
    assert same(mine, theirs)
    plain = network()
    train(plain, Adam(plain.parameters(), 0.005), range(30))
    assert not same(mine, plain)


def test_the_learning_rate_may_be_set_anew_before_each_step() -> None:
    mine, theirs = network(), network()
    one = Adam(mine.parameters(), 0.005)
    other = torch.optim.Adam(theirs.parameters(), lr=0.005, fused=True)
    for step in range(10):
        one.learning_rate = other.param_groups[0]["lr"] = 0.005 / (1 + step)
        train(mine, one, range(step, step + 1))
        train(theirs, other, range(step, step + 1))
    assert same(mine, theirs)


def test_a_loaded_state_goes_on_as_if_it_had_never_stopped() -> None:
    whole, parted = network(), network()
    train(whole, Adam(whole.parameters(), 0.01), range(10))
    before = Adam(parted.parameters(), 0.01)
    train(parted, before, range(5))
    after = Adam(parted.parameters(), 0.01)
    after.load_state({name: value.clone() for name, value in before.state().items()})
    train(parted, after, range(5, 10))
    assert same(whole, parted)


def test_a_state_that_lacks_a_part_is_not_loaded_silently() -> None:
    optimizer = Adam(network().parameters(), 0.01)
    state = optimizer.state()
    state.pop("0/exp_avg")
    with pytest.raises(KeyError):
        optimizer.load_state(state)


def test_a_step_doesnt_import_torchs_compiler() -> None:
    code = (
        "import sys, torch\n"
        "from distributed_fmlp.adam import Adam\n"
        "layer = torch.nn.Linear(2, 2)\n"
        "optimizer = Adam(layer.parameters(), 0.1)\n"
        "layer(torch.ones(1, 2)).sum().backward()\n"
        "optimizer.step()\n"
        "sys.exit('torch._dynamo' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
