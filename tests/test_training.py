"""One trial without Ray: exact to the bit when continued, paired with others, and learning."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import sklearn.metrics
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from distributed_fmlp.architecture import Architecture
from distributed_fmlp.bundle import weights_sha256
from distributed_fmlp.data import Dataset, measure_scaling, stratified_split
from distributed_fmlp.model import scale_pixels
from distributed_fmlp.recipe import Recipe
from distributed_fmlp.records import EpochRecord, best_epoch
from distributed_fmlp.training import (
    DivergedError,
    Trial,
    TrialConfig,
    TrialData,
    TrialState,
    batches,
    prepare_process,
)

CPU = torch.device("cpu")
SMALL = Architecture(hidden=(64, 32), dropout=(0.3, 0.2))
CONFIG = TrialConfig(
    learning_rate=0.005, seed=3, epochs=6, batch_size=64, architecture=SMALL, precision="fp32"
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    prepare_process(1)
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(digits: Dataset) -> TrialData:
    split = stratified_split(digits.train_labels, 0.2, 0)
    return TrialData.of(digits, split, measure_scaling(digits.train_images[split.train_indices]))


def make(data: TrialData, **changes: object) -> Trial:
    return Trial(dataclasses.replace(CONFIG, **changes), data, CPU)  # type: ignore[arg-type]


def run(trial: Trial, epochs: int = CONFIG.epochs) -> Trial:
    while trial.epoch < epochs:
        trial.train_epoch()
    return trial


def through_files(state: TrialState) -> TrialState:
    content = safetensors.torch.save(state.tensors)
    return TrialState(safetensors.torch.load(content), json.loads(json.dumps(state.facts)))


def measured(history: list[EpochRecord]) -> list[dict[str, object]]:
    """What an epoch measured, without how long it took."""
    return [
        {key: value for key, value in row.to_json().items() if "second" not in key}
        for row in history
    ]


def bits(trial: Trial) -> tuple[str, str, list[dict[str, object]]]:
    return (
        weights_sha256(trial.model.state_dict()),
        weights_sha256(trial.best_weights),
        measured(trial.history),
    )


# --- exactness


@pytest.fixture(scope="module")
def uninterrupted(data: TrialData) -> Trial:
    return run(make(data))


@pytest.mark.parametrize("stop_after", [0, 1, 3, 5])
def test_a_trial_continued_from_saved_state_ends_with_the_bits_of_one_never_stopped(
    data: TrialData, uninterrupted: Trial, stop_after: int
) -> None:
    saved = through_files(run(make(data), stop_after).state())
    torch.manual_seed(stop_after)  # no global generator has a say
    np.random.seed(stop_after)
    continued = make(data)
    continued.load_state(saved)
    assert continued.epoch == stop_after
    assert bits(run(continued)) == bits(uninterrupted)


def test_a_trial_stopped_after_every_epoch_ends_with_the_same_bits_and_the_same_test_figures(
    data: TrialData, uninterrupted: Trial
) -> None:
    state = make(data).state()
    for epoch in range(1, CONFIG.epochs + 1):
        trial = make(data)
        trial.load_state(through_files(state))
        state = run(trial, epoch).state()
    assert bits(trial) == bits(uninterrupted)
    ours, theirs = trial.test(), uninterrupted.test()
    assert (ours.best, ours.last) == (theirs.best, theirs.last)
    assert np.array_equal(ours.confidence, theirs.confidence)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_best_weights_survive_when_later_epochs_are_worse(
    data: TrialData, precision: str
) -> None:
    trial = run(make(data, precision=precision), 2)
    best = weights_sha256(trial.best_weights)
    # A first epoch that can't be beaten stands for a best that lies behind.
    trial.history[1] = dataclasses.replace(trial.history[1], val_accuracy=1.0, val_loss=0.0)
    trial.train_epoch()
    assert trial.best_epoch == 2
    assert weights_sha256(trial.model.state_dict()) != best
    restored = make(data, precision=precision)
    restored.load_state(through_files(trial.state()))
    assert restored.best_epoch == 2
    assert weights_sha256(restored.best_weights) == best
    assert weights_sha256(restored.model.state_dict()) == weights_sha256(trial.model.state_dict())


def test_saved_state_holds_the_best_weights_once_while_they_are_the_latest(
    data: TrialData,
) -> None:
    trial = run(make(data), 1)
    assert not any(name.startswith("best/") for name in trial.state().tensors)


def test_saving_and_testing_change_nothing_of_what_comes_after(
    data: TrialData, uninterrupted: Trial
) -> None:
    trial = make(data)
    while trial.epoch < CONFIG.epochs:
        trial.train_epoch()
        trial.state()
        trial.test()
    assert bits(trial) == bits(uninterrupted)


# --- other recipes

OTHER = Recipe(schedule="cosine", label_smoothing=0.1, weight_decay=0.1)


def test_the_default_recipe_adds_nothing_to_the_state_or_to_the_images(data: TrialData) -> None:
    trial = make(data)
    assert Recipe().additions == []
    assert trial.config.recipe == Recipe()
    assert Recipe().additions == []


@pytest.mark.parametrize("stop_after", [0, 1, 4])
def test_a_trial_of_another_recipe_continued_from_saved_state_ends_with_the_same_bits(
    data: TrialData, stop_after: int
) -> None:
    whole = run(make(data, recipe=OTHER))
    saved = through_files(run(make(data, recipe=OTHER), stop_after).state())
    continued = make(data, recipe=OTHER)
    continued.load_state(saved)
    assert bits(run(continued)) == bits(whole)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(schedule="cosine"),
        Recipe(label_smoothing=0.1),
        Recipe(weight_decay=0.1),
    ],
)
def test_each_addition_trains_other_weights_from_the_same_start(
    data: TrialData, uninterrupted: Trial, recipe: Recipe
) -> None:
    trial = make(data, recipe=recipe)
    start = weights_sha256(trial.model.state_dict())
    assert start == weights_sha256(make(data).model.state_dict())
    assert trial.order.bit_generator.state == make(data).order.bit_generator.state
    assert bits(run(trial))[0] != bits(uninterrupted)[0]


def test_a_cosine_schedule_ends_with_steps_that_change_almost_nothing(data: TrialData) -> None:
    rates: list[float] = []
    trial = make(data, recipe=Recipe(schedule="cosine"), epochs=2)
    step = trial.optimizer.step
    trial.optimizer.step = lambda: (rates.append(trial.optimizer.learning_rate), step())[1]  # type: ignore[method-assign]
    run(trial, 2)
    per_epoch = len(list(batches(len(data.train_indices), 64)))
    assert len(rates) == 2 * per_epoch
    assert rates[0] == CONFIG.learning_rate
    assert rates[per_epoch] == pytest.approx(CONFIG.learning_rate / 2)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates))
    assert 0 < rates[-1] < 0.01 * CONFIG.learning_rate


def watch_training(trial: Trial, seen: list[torch.Tensor]) -> None:
    """Collect the logits of a trial's training steps."""
    gradients = trial.gradients

    def watched(*given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        loss, logits = gradients(*given)
        seen.append(logits.clone())
        return loss, logits

    trial.gradients = watched


def test_the_recorded_training_loss_is_against_the_labels_as_they_are(data: TrialData) -> None:
    trial = make(data, recipe=Recipe(label_smoothing=0.9))
    seen: list[torch.Tensor] = []
    watch_training(trial, seen)
    order_state = trial.order.bit_generator.state
    record = trial.train_epoch()
    again = np.random.Generator(np.random.PCG64())
    again.bit_generator.state = order_state
    order = data.train_indices[again.permutation(len(data.train_indices))]
    plain = functional.cross_entropy(
        torch.cat(seen).double(), torch.from_numpy(data.train_labels[order])
    )
    assert record.train_loss == pytest.approx(float(plain), rel=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_small_network_learns_digits_by_another_recipe(data: TrialData, precision: str) -> None:
    recipe = Recipe(schedule="cosine", label_smoothing=0.1, weight_decay=0.05)
    trial = run(make(data, precision=precision, recipe=recipe, epochs=12), 12)
    assert trial.test().best.accuracy > 0.93


# --- pairing


class _Watched(Trial):
    """A trial that notes the rows and dropout masks of its first epoch."""

    def watch(self) -> tuple[list[list[float]], list[torch.Tensor]]:
        rows: list[list[float]] = []
        masks: list[torch.Tensor] = []
        draw_each = self.masks.draw_each
        scale = self._scale

        def drawing(*given: Any) -> list[torch.Tensor]:
            drawn = draw_each(*given)
            masks.extend(mask.clone() for mask in drawn)
            return drawn

        def scaling(pixels: torch.Tensor) -> torch.Tensor:
            if self.model.training:
                rows.append(pixels.double().sum(dim=1).tolist())
            return scale(pixels)

        self.masks.draw_each = drawing  # type: ignore[method-assign]
        self._scale = scaling  # type: ignore[method-assign]
        self.train_epoch()
        return rows, masks


def test_learning_rates_of_one_seed_share_initial_weights_batch_order_and_masks(
    data: TrialData,
) -> None:
    one, other = (
        _Watched(dataclasses.replace(CONFIG, learning_rate=rate), data, CPU)
        for rate in (0.005, 0.0006)
    )
    assert weights_sha256(one.model.state_dict()) == weights_sha256(other.model.state_dict())
    (one_rows, one_masks), (other_rows, other_masks) = one.watch(), other.watch()
    assert one_rows == other_rows
    assert len(one_masks) == len(other_masks) > 0
    assert all(map(torch.equal, one_masks, other_masks))
    assert weights_sha256(one.model.state_dict()) != weights_sha256(other.model.state_dict())


def test_another_seed_gives_other_weights_another_order_and_other_masks(data: TrialData) -> None:
    one, other = (_Watched(dataclasses.replace(CONFIG, seed=seed), data, CPU) for seed in (0, 1))
    assert weights_sha256(one.model.state_dict()) != weights_sha256(other.model.state_dict())
    (one_rows, one_masks), (other_rows, other_masks) = one.watch(), other.watch()
    assert one_rows != other_rows
    assert not all(map(torch.equal, one_masks, other_masks))


def test_every_epoch_passes_over_every_training_image_once_in_a_fresh_order(
    data: TrialData,
) -> None:
    trial = _Watched(CONFIG, data, CPU)
    first = [value for batch in trial.watch()[0] for value in batch]
    second = [value for batch in trial.watch()[0] for value in batch]
    sums = data.train_images[data.train_indices].sum(axis=1, dtype=np.float64)
    assert sorted(first) == sorted(second) == sorted(sums)
    assert first != second


# --- batches


@given(count=st.integers(2, 700), size=st.integers(2, 130))
def test_batches_cover_all_rows_in_order_and_none_is_a_single_row(count: int, size: int) -> None:
    spans = list(batches(count, size))
    assert spans[0][0] == 0
    assert spans[-1][1] == count
    assert all(before[1] == after[0] for before, after in itertools.pairwise(spans))
    lengths = [stop - start for start, stop in spans]
    assert min(lengths) >= 2
    assert all(length == size for length in lengths[:-1])
    assert lengths[-1] <= size + 1
    assert (lengths[-1] == size + 1) == (count % size == 1 and count > size)


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [(128, 64, [64, 64]), (130, 64, [64, 64, 2]), (129, 64, [64, 65]), (65, 64, [65])],
)
def test_a_single_left_over_row_joins_the_batch_before_it(
    count: int, size: int, expected: list[int]
) -> None:
    assert [stop - start for start, stop in batches(count, size)] == expected


def test_a_trial_with_a_left_over_row_trains(data: TrialData) -> None:
    trial = make(data, batch_size=len(data.train_indices) - 1)
    assert math.isfinite(trial.train_epoch().train_loss)


# --- measuring


def test_the_recorded_figures_are_scikit_learns_of_the_passes_themselves(data: TrialData) -> None:
    trial = make(data)
    seen: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    watch_training(trial, seen[True])
    trial.model.register_forward_hook(
        lambda model, given, logits: seen[model.training].append(logits.detach().clone())
    )
    order_state = trial.order.bit_generator.state
    record = trial.train_epoch()
    again = np.random.Generator(np.random.PCG64())
    again.bit_generator.state = order_state
    order = data.train_indices[again.permutation(len(data.train_indices))]
    truths = {True: data.train_labels[order], False: data.train_labels[data.val_indices]}
    for training, prefix in ((True, "train"), (False, "val")):
        logits = torch.cat(seen[training]).double()
        labels, predicted = truths[training], logits.argmax(dim=1).numpy()
        loss = sklearn.metrics.log_loss(labels, logits.softmax(dim=1).numpy(), labels=range(10))
        assert getattr(record, f"{prefix}_loss") == pytest.approx(loss, rel=1e-5)
        assert getattr(record, f"{prefix}_accuracy") == sklearn.metrics.accuracy_score(
            labels, predicted
        )
        assert getattr(record, f"{prefix}_f1") == pytest.approx(
            sklearn.metrics.f1_score(labels, predicted, average="macro")
        )
    assert record.seconds > 0
    assert record.images_per_second > 0


def test_the_test_figures_are_those_of_the_chosen_and_of_the_last_weights(data: TrialData) -> None:
    trial = run(make(data), 4)
    trial.history[1] = dataclasses.replace(trial.history[1], val_accuracy=1.0)
    trial.best_weights = run(make(data), 2).best_weights
    outcome = trial.test()
    assert (outcome.best.epoch, outcome.last.epoch) == (2, 4)
    for predicted, record in (
        (outcome.predicted, outcome.best),
        (outcome.predicted_last, outcome.last),
    ):
        truth = data.test_labels
        assert record.accuracy == sklearn.metrics.accuracy_score(truth, predicted)
        assert (
            record.confusion_matrix == sklearn.metrics.confusion_matrix(truth, predicted).tolist()
        )
    assert not np.array_equal(outcome.predicted, outcome.predicted_last)
    fresh = make(data)
    fresh.model.load_state_dict(trial.best_weights)
    fresh.model.eval()
    with torch.inference_mode():
        probabilities = fresh.model.probabilities(
            scale_pixels(torch.tensor(data.test_images), data.scaling)
        )
    assert np.array_equal(outcome.predicted, probabilities.argmax(dim=1).numpy())
    assert np.allclose(outcome.confidence, probabilities.max(dim=1).values.numpy(), atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_small_network_learns_digits(data: TrialData, precision: str) -> None:
    trial = run(make(data, precision=precision), 12)
    best = best_epoch(trial.history)
    assert best is not None
    assert best.val_accuracy > 0.93
    assert trial.history[-1].train_loss < 0.5 * trial.history[0].train_loss
    assert trial.test().best.accuracy > 0.93
    assert trial.model.output.weight.dtype == torch.float32


def test_bf16_is_another_arithmetic_than_fp32(data: TrialData) -> None:
    one, other = (make(data, precision=each).train_epoch() for each in ("fp32", "bf16"))
    assert one.train_loss != other.train_loss
    assert one.train_loss == pytest.approx(other.train_loss, rel=0.05)


# --- divergence


def test_a_loss_that_is_no_number_ends_the_trial_in_the_step_it_appears(data: TrialData) -> None:
    trial = make(data, learning_rate=1e30)
    steps: list[int] = []
    trial.model.register_forward_hook(lambda *_: steps.append(1))
    with pytest.raises(DivergedError, match=r"loss became (nan|inf) in epoch 1, step \d+"):
        run(trial)
    assert len(steps) < 10
    assert trial.history == []


def test_a_validation_loss_that_is_no_number_ends_the_trial(data: TrialData) -> None:
    trial = make(data)
    trial.model.register_forward_hook(
        lambda model, given, logits: logits if model.training else logits * float("nan")
    )
    with pytest.raises(DivergedError, match="validation loss became nan in epoch 1"):
        trial.train_epoch()
    assert trial.history == []


# --- manners


def test_training_imports_no_ray() -> None:
    code = "import sys, distributed_fmlp.training; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_the_shared_arrays_are_not_copied_and_may_be_read_only(data: TrialData) -> None:
    assert not data.train_images.flags.writeable
    trial = make(data)
    assert trial.train_images.data_ptr() == data.train_images.ctypes.data
    assert trial.train_labels.data_ptr() == data.train_labels.ctypes.data


def test_a_process_is_prepared_with_the_threads_it_was_given() -> None:
    code = (
        "import torch; from distributed_fmlp.training import prepare_process\n"
        "prepare_process(2)\n"
        "assert torch.get_num_threads() == 2\n"
        "assert float(torch.tensor(1e-39) * 1.0) == 0.0\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
