"""The network: its shape, its initial weights, its dropout masks."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from distributed_fmlp.architecture import Architecture
from distributed_fmlp.data import Scaling
from distributed_fmlp.model import FMLP, Dropout, MaskGenerator, build_model, scale_pixels

CPU = torch.device("cpu")
SMALL = Architecture(hidden=(32, 16), dropout=(0.3, 0.3))


def test_architecture_2_is_784_1024_512_256_128_10_with_1492224_weights_in_its_matrices() -> None:
    model = FMLP()
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert [(each.in_features, each.out_features) for each in linears] == [
        (784, 1024),
        (1024, 512),
        (512, 256),
        (256, 128),
        (128, 10),
    ]
    assert sum(each.weight.numel() for each in linears) == 1_492_224


def test_each_hidden_layer_is_linear_batch_norm_relu_dropout_and_the_last_is_linear_alone() -> None:
    model = FMLP(Architecture(hidden=(8, 4), dropout=(0.1, 0.6)))
    kinds = [[type(part) for part in block] for block in model.hidden]  # type: ignore[union-attr]
    assert kinds == [[nn.Linear, nn.BatchNorm1d, nn.ReLU, Dropout]] * 2
    assert [block[3].rate for block in model.hidden] == [0.1, 0.6]  # type: ignore[index]
    assert isinstance(model.output, nn.Linear)


def test_an_architecture_wants_one_rate_per_layer_and_comes_back_from_json() -> None:
    with pytest.raises(ValueError, match="1 dropout rates for 2 layers"):
        Architecture(hidden=(8, 4), dropout=(0.3,))
    assert Architecture.from_json(json.loads(json.dumps(SMALL.to_json()))) == SMALL


def test_the_same_seed_gives_the_same_weights_whatever_the_global_generator_did() -> None:
    torch.manual_seed(1)
    first = build_model(SMALL, 7).state_dict()
    torch.manual_seed(2)
    torch.rand(100)
    second = build_model(SMALL, 7).state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = build_model(SMALL, 8).state_dict()
    assert not torch.equal(first["output.weight"], other["output.weight"])


def test_building_a_model_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    build_model(SMALL, 7)
    assert torch.equal(before, torch.get_rng_state())


def test_logits_become_probabilities_that_sum_to_one_and_keep_their_order() -> None:
    model = build_model(SMALL, 0).eval()
    images = torch.randn(50, 1, 28, 28)
    probabilities = model.probabilities(images)
    assert probabilities.shape == (50, 10)
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(50), atol=1e-6)
    assert torch.equal(probabilities.argmax(dim=1), model(images).argmax(dim=1))
    assert torch.allclose(probabilities, model(images).softmax(dim=1))


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.9])
def test_a_mask_drops_the_rate_it_is_given_and_scales_the_rest_to_keep_the_mean(
    rate: float,
) -> None:
    mask = MaskGenerator(3, CPU).draw(torch.empty(1000, 1003), rate)
    dropped = float((mask == 0).double().mean())
    deviation = math.sqrt(rate * (1 - rate) / mask.numel())
    assert abs(dropped - rate) < 5 * deviation + 1 / 65536
    kept = mask[mask != 0]
    assert torch.all(kept == kept[0])
    assert float(kept[0]) == pytest.approx(1 / (1 - rate), rel=1e-3)
    assert float(mask.double().mean()) == pytest.approx(1, abs=6 * deviation / (1 - rate))


def test_mask_elements_are_independent_of_their_neighbours() -> None:
    kept = (MaskGenerator(5, CPU).draw(torch.empty(400, 512), 0.5) != 0).double() - 0.5
    for one, other in (
        (kept[:, 1:], kept[:, :-1]),
        (kept[1:], kept[:-1]),
        (kept[:, 4:], kept[:, :-4]),
    ):
        correlation = float((one * other).mean() / 0.25)
        assert abs(correlation) < 5 / math.sqrt(one.numel())


@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    rate=st.floats(0, 1, exclude_max=True, allow_subnormal=False),
)
@settings(max_examples=200, deadline=None)
def test_a_mask_has_any_shape_and_its_numbers_are_finite_for_any_rate(
    rows: int, columns: int, rate: float
) -> None:
    mask = MaskGenerator(0, CPU).draw(torch.empty(rows, columns), rate)
    assert mask.shape == (rows, columns)
    assert bool(torch.isfinite(mask).all())


def test_a_mask_takes_the_dtype_it_is_for() -> None:
    mask = MaskGenerator(0, CPU).draw(torch.empty(4, 4, dtype=torch.bfloat16), 0.5)
    assert mask.dtype == torch.bfloat16


def test_masks_go_on_where_their_saved_state_was_taken() -> None:
    masks = MaskGenerator(11, CPU)
    like = torch.empty(7, 3)  # 21 elements: not a whole number of 64-bit words
    masks.draw(like, 0.3)
    saved = json.loads(json.dumps(masks.state()))
    expected = [masks.draw(like, 0.3) for _ in range(3)]
    restored = MaskGenerator(99, CPU)
    restored.load_state(saved)
    assert all(torch.equal(mask, restored.draw(like, 0.3)) for mask in expected)


def test_a_mask_state_of_another_kind_of_device_is_refused() -> None:
    masks = MaskGenerator(0, CPU)
    with pytest.raises(ValueError, match="another kind of device"):
        masks.load_state({**masks.state(), "torch": [0]})


def test_in_evaluation_dropout_changes_nothing_and_draws_nothing() -> None:
    model = build_model(SMALL, 0).eval()
    masks = model.seed_dropout(1, CPU)
    before = masks.state()
    images = torch.randn(5, 784)
    assert torch.equal(model(images), model(images))
    assert masks.state() == before
    layer = model.hidden[0][3]  # type: ignore[index]
    activations = torch.randn(5, 8)
    assert torch.equal(layer(activations), activations)


def test_in_training_dropout_zeroes_and_scales_and_no_two_steps_are_alike() -> None:
    layer = Dropout(0.5).train()
    layer.masks = MaskGenerator(1, CPU)
    ones = torch.ones(64, 64)
    first, second = layer(ones), layer(ones)
    assert set(first.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(first, second)


def test_a_model_with_dropout_is_not_trained_without_its_masks() -> None:
    with pytest.raises(RuntimeError, match="seed_dropout"):
        build_model(SMALL, 0).train()(torch.randn(4, 784))


def test_pixels_are_scaled_to_the_given_mean_and_deviation() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    scaled = scale_pixels(pixels, Scaling(mean=0.286, std=0.353))
    assert scaled.dtype == torch.float32
    expected = (np.arange(256) / 255 - 0.286) / 0.353
    assert np.allclose(scaled.numpy(), expected, atol=1e-6)
    assert pixels[255] == 255  # what is shared by all trials is not written
