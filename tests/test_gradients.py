"""The written-out passes give autograd's numbers, to the last bit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from distributed_fmlp.adam import Adam
from distributed_fmlp.architecture import Architecture
from distributed_fmlp.gradients import ByAutograd, Gradients, WrittenOut, gradients_for
from distributed_fmlp.model import FMLP, build_model

CPU = torch.device("cpu")
NARROW = Architecture(input=12, hidden=(9, 7), output=3, dropout=(0.3, 0.1))


def both_ways(architecture: Architecture) -> tuple[FMLP, Gradients, FMLP, Gradients]:
    graph = build_model(architecture, 0).train()
    written = copy.deepcopy(graph)
    by_autograd = ByAutograd(graph, CPU, bf16=False)
    graph.seed_dropout(5, CPU)
    return graph, by_autograd, written, WrittenOut(written, written.seed_dropout(5, CPU))


def batch(architecture: Architecture, rows: int, seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    images = torch.randn(rows, architecture.input, generator=draw)
    return images, torch.randint(0, architecture.output, (rows,), generator=draw)


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture(),
        NARROW,
        Architecture(input=12, hidden=(9, 7, 5), output=3, dropout=(0.0, 0.5, 0.0)),
        Architecture(input=12, hidden=(9,), output=3, dropout=(0.0,)),
    ],
    ids=["architecture 2", "narrow", "some without dropout", "one layer"],
)
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_steps_written_out_are_autograds_to_the_last_bit(
    architecture: Architecture, label_smoothing: float
) -> None:
    graph, by_autograd, written, written_out = both_ways(architecture)
    optimizers = [Adam(model.parameters(), 0.01) for model in (graph, written)]
    untouched = copy.deepcopy(graph)
    # Batches of several sizes, and the first size again: buffers are kept by size.
    for step, rows in enumerate((16, 16, 5, 16, 64, 5, 2)):
        images, labels = batch(architecture, rows, step)
        expected_loss, expected_logits = by_autograd(images, labels, label_smoothing)
        loss, logits = written_out(images, labels, label_smoothing)
        assert torch.equal(loss, expected_loss) and torch.equal(logits, expected_logits)
        for (name, one), other in zip(graph.named_parameters(), written.parameters(), strict=True):
            assert one.grad is not None and other.grad is not None
            assert torch.equal(one.grad, other.grad), (step, name)
        for optimizer in optimizers:
            optimizer.step()
    for (name, one), other in zip(
        graph.state_dict().items(), written.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
    assert not torch.equal(written.output.weight, untouched.output.weight)


def test_a_gradient_agrees_with_finite_differences_in_float64() -> None:
    """Autograd aside: the loss falls along the gradient at the rate the gradient says."""
    model = build_model(Architecture(input=6, hidden=(5,), output=3, dropout=(0.0,)), 1)
    images, labels = batch(model.architecture, 8, 0)
    written_out = WrittenOut(model.train(), model.seed_dropout(0, CPU))
    written_out(images, labels, 0.0)
    weight = model.hidden[0][0].weight
    gradient = weight.grad.clone()
    wide = copy.deepcopy(model).double()
    step = 1e-6

    @torch.no_grad()
    def loss_at(change: Tensor) -> float:
        moved = copy.deepcopy(wide)
        moved.hidden[0][0].weight.data += change
        logits = moved(images.double())
        return float(torch.nn.functional.cross_entropy(logits, labels))

    direction = gradient.double()
    slope = (loss_at(step * direction) - loss_at(-step * direction)) / (2 * step)
    assert slope == pytest.approx(float((direction**2).sum()), rel=1e-3)


def test_a_loss_that_is_not_finite_shows_in_the_loss() -> None:
    _, _, written, written_out = both_ways(NARROW)
    with torch.no_grad():
        written.output.weight[0, 0] = float("nan")
    loss, _ = written_out(*batch(NARROW, 8, 0), 0.0)
    assert not torch.isfinite(loss)


def test_autograd_is_used_where_the_passes_are_not_written_out() -> None:
    model = build_model(NARROW, 0)
    masks = model.seed_dropout(0, CPU)
    assert isinstance(gradients_for(model, masks, CPU, bf16=False), WrittenOut)
    assert isinstance(gradients_for(model, masks, CPU, bf16=True), ByAutograd)
    assert isinstance(gradients_for(model, masks, torch.device("cuda"), bf16=False), ByAutograd)
