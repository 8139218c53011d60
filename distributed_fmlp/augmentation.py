"""Random flips and shifts of training images, each image on its own, before they are scaled."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Augmentation:
    """Mirrors and moves the images of a batch. Its random state belongs in the checkpoint.

    `flip` is the probability of mirroring an image left to right, `shift` that of moving it by one
    pixel in one of the eight directions; black comes in from the border. Raises `ValueError` when
    images of `n_pixels` are not square.
    """

    def __init__(self, flip: float, shift: float, seed: int, n_pixels: int) -> None:
        self.flip, self.shift = flip, shift
        self._draws = np.random.Generator(np.random.PCG64(seed))
        self._side = math.isqrt(n_pixels)
        if self._side**2 != n_pixels:
            raise ValueError(f"images of {n_pixels} pixels are not square")
        # Where each pixel comes from in an image with a border of one black pixel around it, as
        # offsets from the corner that the image is taken from.
        self._width = self._side + 2
        columns = np.arange(self._side)
        rows = columns[:, None] * self._width
        self._upright = (rows + columns).reshape(-1)
        self._mirrored = (rows + columns[::-1]).reshape(-1)
        corners = [row * self._width + column for row in range(3) for column in range(3)]
        self._centre = corners.pop(4)
        self._around = np.array(corners)

    def __call__(self, images: Tensor) -> Tensor:
        """Images `[N, n_pixels]` of any dtype to others of the same, in new memory."""
        count = len(images)
        flipped = self._draws.random(count) < self.flip
        moved = self._draws.random(count) < self.shift
        corner = np.where(moved, self._draws.choice(self._around, count), self._centre)
        sources = np.where(flipped[:, None], self._mirrored, self._upright) + corner[:, None]
        framed = images.new_zeros((count, self._width, self._width))
        framed[:, 1:-1, 1:-1] = images.view(count, self._side, self._side)
        return framed.view(count, -1).gather(1, torch.from_numpy(sources).to(images.device))

    def state(self) -> dict[str, Any]:
        """The random state as JSON values."""
        return dict(self._draws.bit_generator.state)

    def load_state(self, state: dict[str, Any]) -> None:
        self._draws.bit_generator.state = state
