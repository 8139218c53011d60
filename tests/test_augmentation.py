"""Flips and shifts of training images: what they do to pixels, how often, and from which state."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from distributed_fmlp.augmentation import Augmentation

SIDE = 7


def images(count: int, seed: int = 0) -> torch.Tensor:
    """Images without a black pixel, so that what comes in from the border can be seen."""
    draw = np.random.default_rng(seed)
    return torch.from_numpy(draw.integers(1, 256, (count, SIDE * SIDE), dtype=np.uint8))


def moved(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """An image moved by whole pixels, worked out one pixel at a time."""
    result = np.zeros_like(image)
    for row in range(SIDE):
        for column in range(SIDE):
            if 0 <= row - down < SIDE and 0 <= column - right < SIDE:
                result[row, column] = image[row - down, column - right]
    return result


def test_without_either_every_image_comes_back_as_it_was() -> None:
    given = images(20)
    assert torch.equal(Augmentation(0.0, 0.0, 1, SIDE * SIDE)(given), given)


def test_a_certain_flip_mirrors_every_image_left_to_right() -> None:
    given = images(20)
    flipped = Augmentation(1.0, 0.0, 1, SIDE * SIDE)(given)
    assert flipped.dtype == torch.uint8
    assert torch.equal(flipped.view(-1, SIDE, SIDE), given.view(-1, SIDE, SIDE).flip(2))


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_a_certain_shift_moves_each_image_by_one_pixel_in_any_of_eight_directions(
    flip: float,
) -> None:
    given = images(400)
    result = Augmentation(flip, 1.0, 1, SIDE * SIDE)(given).numpy().reshape(-1, SIDE, SIDE)
    originals = given.numpy().reshape(-1, SIDE, SIDE)
    if flip:
        originals = originals[:, :, ::-1]
    directions = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
    seen = dict.fromkeys(directions, 0)
    for original, image in zip(originals, result, strict=True):
        fits = [way for way in directions if np.array_equal(image, moved(original, *way))]
        assert len(fits) == 1
        seen[fits[0]] += 1
    assert min(seen.values()) > 25  # 50 expected of each


def test_each_image_is_drawn_for_on_its_own_with_the_asked_probability() -> None:
    given = images(1, 3).repeat(4000, 1)
    result = Augmentation(0.25, 0.0, 5, SIDE * SIDE)(given)
    share = float((result != given).any(dim=1).double().mean())
    assert 0.22 < share < 0.28


def test_the_images_given_are_not_written_to() -> None:
    given = images(50)
    before = given.clone()
    Augmentation(0.5, 0.5, 1, SIDE * SIDE)(given)
    assert torch.equal(given, before)


def test_a_saved_state_draws_on_as_if_it_had_never_stopped() -> None:
    one = Augmentation(0.5, 0.5, 9, SIDE * SIDE)
    one(images(30))
    saved = json.loads(json.dumps(one.state()))
    expected = one(images(30, 1))
    other = Augmentation(0.5, 0.5, 1, SIDE * SIDE)
    other.load_state(saved)
    assert torch.equal(other(images(30, 1)), expected)


def test_images_that_are_not_square_are_refused() -> None:
    with pytest.raises(ValueError, match="48 pixels are not square"):
        Augmentation(0.5, 0.5, 1, 48)
