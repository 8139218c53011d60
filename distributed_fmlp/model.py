"""Architecture 2 as one module: [Linear, BatchNorm1d, ReLU, Dropout] blocks, then Linear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distributed_fmlp.architecture import Architecture
from distributed_fmlp.data import Scaling

_DRAWS_PER_WORD = 4  # of 16 bits each
_STEPS = 1 << 16  # a mask element is kept when a 16-bit draw reaches rate * 65,536


class MaskGenerator:
    """The random state behind all of a model's dropout masks.

    On the CPU the draws come from NumPy's SFC64, several times faster than torch's generator (the
    rate is then exact to 1/65,536); on other devices from a torch generator on that device.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        self._numpy = np.random.Generator(np.random.SFC64(seed))
        self._torch = (
            None if device.type == "cpu" else torch.Generator(device=device).manual_seed(seed)
        )

    def draw(self, like: Tensor, rate: float) -> Tensor:
        """A mask of `like`'s shape and dtype: 0 where dropped, 1 / (share kept) elsewhere."""
        if self._torch is not None:
            kept = torch.rand(like.shape, generator=self._torch, device=like.device) >= rate
            return kept.to(like.dtype).mul_(1.0 / (1.0 - rate))
        (mask,) = self.draw_each([like.shape], [rate])
        return mask.to(like.dtype)

    def draw_each(self, shapes: Sequence[torch.Size], rates: Sequence[float]) -> list[Tensor]:
        """Masks float32 for several layers on the CPU, as `draw` would give one after the other.

        A layer whose rate is 0 takes nothing from the generator.
        """
        words = [
            (shape.numel() + _DRAWS_PER_WORD - 1) // _DRAWS_PER_WORD if rate else 0
            for shape, rate in zip(shapes, rates, strict=True)
        ]
        drawn = self._numpy.bit_generator.random_raw(sum(words))
        masks, start = [], 0
        for shape, rate, count in zip(shapes, rates, words, strict=True):
            if not rate:
                masks.append(torch.ones(shape))
                continue
            threshold = min(round(rate * _STEPS), _STEPS - 1)  # a rate is below 1
            draws = drawn[start : start + count].view(np.uint16)[: shape.numel()]
            start += count
            scale = np.float32(_STEPS / (_STEPS - threshold))
            mask = np.multiply(draws >= threshold, scale, dtype=np.float32)
            masks.append(torch.from_numpy(mask).view(shape))
        return masks

    def state(self) -> dict[str, Any]:
        """The state as JSON values."""
        numpy_state: dict[str, Any] = dict(self._numpy.bit_generator.state)
        numpy_state["state"] = {"state": [int(word) for word in numpy_state["state"]["state"]]}
        torch_state = None if self._torch is None else self._torch.get_state().tolist()
        return {"numpy": numpy_state, "torch": torch_state}

    def load_state(self, state: dict[str, Any]) -> None:
        """Raises `ValueError` when the state was taken on another kind of device."""
        if (state["torch"] is None) != (self._torch is None):
            raise ValueError("the dropout state was saved on another kind of device")
        numpy_state = dict(state["numpy"])
        words = np.array(numpy_state["state"]["state"], dtype=np.uint64)
        self._numpy.bit_generator.state = {**numpy_state, "state": {"state": words}}
        if self._torch is not None:
            self._torch.set_state(torch.tensor(state["torch"], dtype=torch.uint8))


class Dropout(nn.Module):
    """Inverted dropout (Srivastava et al., 2014) with masks from the model's own generator."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.masks: MaskGenerator | None = None

    def forward(self, activations: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return activations
        if self.masks is None:
            raise RuntimeError("a model to be trained needs seed_dropout() first")
        return activations * self.masks.draw(activations, self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


class FMLP(nn.Module):
    """A fully connected classifier; Architecture 2 unless told otherwise.

    `forward` takes float32 `[N, 784]` (or any shape that flattens to it), already scaled, and gives
    logits float32 `[N, 10]`. `probabilities` applies the softmax.
    """

    def __init__(self, architecture: Architecture | None = None) -> None:
        super().__init__()
        self.architecture = architecture or Architecture()
        sizes = (self.architecture.input, *self.architecture.hidden)
        self.hidden = nn.ModuleList(
            nn.Sequential(
                nn.Linear(n_in, n_out), nn.BatchNorm1d(n_out), nn.ReLU(inplace=True), Dropout(rate)
            )
            for n_in, n_out, rate in zip(
                sizes[:-1], sizes[1:], self.architecture.dropout, strict=True
            )
        )
        self.output = nn.Linear(sizes[-1], self.architecture.output)

    def forward(self, images: Tensor) -> Tensor:
        activations = images.flatten(1)
        for block in self.hidden:
            activations = block(activations)
        logits: Tensor = self.output(activations)
        return logits

    def probabilities(self, images: Tensor) -> Tensor:
        """Softmax over classes, float32 `[N, 10]`."""
        logits: Tensor = self(images)
        return logits.float().softmax(dim=1)

    def seed_dropout(self, seed: int, device: torch.device) -> MaskGenerator:
        """Give every dropout layer masks from one generator; returned so it can be saved."""
        masks = MaskGenerator(seed, device)
        for module in self.modules():
            if isinstance(module, Dropout):
                module.masks = masks
        return masks


def build_model(architecture: Architecture, seed: int) -> FMLP:
    """A model on the CPU with PyTorch's default initial weights, a function of `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FMLP(architecture)


def scale_pixels(pixels: Tensor, scaling: Scaling) -> Tensor:
    """Pixels 0 to 255, any dtype and shape, to float32 `(pixel / 255 - mean) / std`."""
    return pixels.float().sub_(255.0 * scaling.mean).mul_(1.0 / (255.0 * scaling.std))
