"""Loss and gradients of one batch: by autograd, or written out for this network on the CPU.

Both give the same numbers to the last bit, from the same kernels. Written out, a step makes no
graph and no tensors anew: at batch 64 that is a tenth of a training step's time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from distributed_fmlp.model import FMLP, MaskGenerator

_aten = torch.ops.aten


class Gradients(Protocol):
    """Fills every parameter's `grad` from a batch."""

    def __call__(
        self, images: Tensor, labels: Tensor, label_smoothing: float
    ) -> tuple[Tensor, Tensor]:
        """Mean loss `[]` and logits float `[N, classes]`, without a graph behind them.

        `images` float32 `[N, inputs]`, scaled; `labels` int64 `[N]`.
        """


def gradients_for(
    model: FMLP, masks: MaskGenerator, device: torch.device, *, bf16: bool
) -> Gradients:
    """The quickest way to a model's gradients on a device."""
    if device.type == "cpu" and not bf16:
        return WrittenOut(model, masks)
    return ByAutograd(model, device, bf16=bf16)


class ByAutograd:
    """PyTorch's own graph, in fp32 or under bf16 autocast."""

    def __init__(self, model: FMLP, device: torch.device, *, bf16: bool) -> None:
        self._model = model
        self._device_type = device.type
        self._bf16 = bf16

    def __call__(
        self, images: Tensor, labels: Tensor, label_smoothing: float
    ) -> tuple[Tensor, Tensor]:
        for parameter in self._model.parameters():
            parameter.grad = None
        with torch.autocast(self._device_type, dtype=torch.bfloat16, enabled=self._bf16):
            logits = self._model(images)
            loss = functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach(), logits.detach()


@dataclass
class _Block:
    """A hidden layer's parts, and the buffers its passes write to, for one number of rows."""

    weight: Tensor  # [outputs, inputs]; so is its transpose's memory
    bias: Tensor
    norm: nn.BatchNorm1d
    inputs: Tensor  # [N, inputs]: what the layer was given
    linear: Tensor  # [N, outputs] each, from here on
    normed: Tensor
    gate: Tensor  # 0 where ReLU or dropout closed, else 1 / (share kept)
    outputs: Tensor
    mean: Tensor  # [outputs] each: of this batch
    inverse_deviation: Tensor


class WrittenOut:
    """The passes of `FMLP` in training, in fp32 on the CPU, one kernel after the other."""

    def __init__(self, model: FMLP, masks: MaskGenerator) -> None:
        self._model = model
        self._masks = masks
        self._rates = model.architecture.dropout
        self._blocks: dict[int, list[_Block]] = {}  # by the rows of a batch
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)

    @torch.no_grad()
    def __call__(
        self, images: Tensor, labels: Tensor, label_smoothing: float
    ) -> tuple[Tensor, Tensor]:
        blocks = self._blocks.get(len(images)) or self._make_blocks(len(images))
        logits = self._forward(images, blocks)
        with torch.enable_grad():
            leaf = logits.requires_grad_()
            loss = functional.cross_entropy(leaf, labels, label_smoothing=label_smoothing)
            (into_logits,) = torch.autograd.grad(loss, leaf)
        self._backward(into_logits, blocks)
        return loss.detach(), logits.detach()

    def _forward(self, images: Tensor, blocks: Sequence[_Block]) -> Tensor:
        activations = images
        masks = self._masks.draw_each([block.normed.shape for block in blocks], self._rates)
        for block, mask in zip(blocks, masks, strict=True):
            block.inputs = activations
            norm = block.norm
            torch.addmm(block.bias, activations, block.weight.t(), out=block.linear)
            torch.native_batch_norm(
                block.linear,
                norm.weight,
                norm.bias,
                norm.running_mean,
                norm.running_var,
                True,
                norm.momentum or 0.0,
                norm.eps,
                out=(block.normed, block.mean, block.inverse_deviation),
            )
            norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]
            # ReLU and dropout together: the mask where the input is above 0.
            _aten.threshold_backward(mask, block.normed, 0, grad_input=block.gate)
            activations = torch.mul(block.normed, block.gate, out=block.outputs)
        output = self._model.output
        return torch.addmm(output.bias, activations, output.weight.t())

    def _backward(self, into_logits: Tensor, blocks: Sequence[_Block]) -> None:
        output = self._model.output
        _into_linear(output.weight, output.bias, into_logits, blocks[-1].outputs)
        gradient = torch.mm(into_logits, output.weight)
        for position in reversed(range(len(blocks))):
            block = blocks[position]
            norm = block.norm
            into_linear, into_scale, into_shift = _aten.native_batch_norm_backward(
                gradient.mul_(block.gate),
                block.linear,
                norm.weight,
                norm.running_mean,
                norm.running_var,
                block.mean,
                block.inverse_deviation,
                True,
                norm.eps,
                [True, True, True],
            )
            norm.weight.grad, norm.bias.grad = into_scale, into_shift
            _into_linear(block.weight, block.bias, into_linear, block.inputs)
            if position:
                gradient = torch.mm(into_linear, block.weight)

    def _make_blocks(self, rows: int) -> list[_Block]:
        self._blocks[rows] = [_block(layer, rows) for layer in self._model.hidden]
        return self._blocks[rows]


def _block(layer: nn.Module, rows: int) -> _Block:
    linear, norm = layer[0], layer[1]  # type: ignore[index]
    assert isinstance(linear, nn.Linear) and isinstance(norm, nn.BatchNorm1d)
    shape = (rows, linear.out_features)
    return _Block(
        weight=linear.weight,
        bias=linear.bias,
        norm=norm,
        inputs=torch.empty(0),  # the batch, or the outputs of the layer before
        linear=torch.empty(shape),
        normed=torch.empty(shape),
        gate=torch.empty(shape),
        outputs=torch.empty(shape),
        mean=torch.empty(linear.out_features),
        inverse_deviation=torch.empty(linear.out_features),
    )


def _into_linear(weight: Tensor, bias: Tensor, gradient: Tensor, inputs: Tensor) -> None:
    """The gradients of a Linear layer's weight and bias from that of what it gave out."""
    torch.mm(gradient.t(), inputs, out=weight.grad)
    torch.sum(gradient, dim=0, out=bias.grad)
