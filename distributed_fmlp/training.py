"""One trial as plain PyTorch, with no Ray: a configuration in, a record per epoch out.

A trial's whole state can be saved and loaded exactly: a trial that is stopped after any epoch and
continued from its saved state ends with the same bits as one that never stopped, on the same kind
of machine with the same number of threads.
"""

from __future__ import annotations

import ctypes
import math
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from distributed_fmlp import metrics
from distributed_fmlp.adam import Adam
from distributed_fmlp.architecture import Architecture
from distributed_fmlp.data import Dataset, Scaling, Split
from distributed_fmlp.gradients import gradients_for
from distributed_fmlp.model import FMLP, build_model, scale_pixels
from distributed_fmlp.recipe import Recipe
from distributed_fmlp.records import EpochRecord, TestRecord, best_epoch
from distributed_fmlp.schedule import learning_rate_at

Precision = Literal["fp32", "bf16"]
_EVALUATION_BATCH = 1000
_FINITE_CHECK_STEPS = 64  # how often a GPU is made to wait for the check that the loss is finite
_STREAMS = ("initial weights", "batch order", "dropout")


class DivergedError(Exception):
    """The loss is no longer a finite number; more epochs can't mend it."""


@dataclass(frozen=True)
class TrialConfig:
    """What defines one trial. Checked where it was given; nothing here checks it again."""

    learning_rate: float
    seed: int
    epochs: int
    batch_size: int
    architecture: Architecture
    precision: Precision = "fp32"
    recipe: Recipe = field(default_factory=Recipe)


@dataclass(frozen=True)
class TrialData:
    """The arrays of one data set, shared by all trials of a node and never written.

    `images` uint8 `[N, 784]`, `labels` int64 `[N]`; the indices int64 select from them.
    """

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    train_indices: NDArray[np.int64]
    val_indices: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    scaling: Scaling

    @classmethod
    def of(cls, dataset: Dataset, split: Split, scaling: Scaling) -> TrialData:
        """What trials take of a data set and its split; the arrays are shared, not copied."""
        return cls(
            train_images=dataset.train_images,
            train_labels=dataset.train_labels,
            train_indices=split.train_indices,
            val_indices=split.val_indices,
            test_images=dataset.test_images,
            test_labels=dataset.test_labels,
            scaling=scaling,
        )


@dataclass
class TrialState:
    """A trial between two epochs: tensors by name, and everything else as JSON values."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


@dataclass(frozen=True)
class TestOutcome:
    """The test set seen once: figures and predictions of the chosen and of the last epoch."""

    __test__ = False

    best: TestRecord
    last: TestRecord
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float32]
    predicted_last: NDArray[np.int64]


def prepare_process(threads: int) -> None:
    """Set the process up for training on `threads` CPU threads.

    Gradients are a few MB each and are freed every step; the C library would give them back to the
    system and fault every page in anew. Denormal numbers slow matrix products several times.
    """
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    if sys.platform == "linux":
        try:
            libc = ctypes.CDLL("libc.so.6")
        except OSError:  # another C library: only slower
            return
        m_trim_threshold, m_mmap_threshold = -1, -3  # mallopt(3)
        libc.mallopt(m_mmap_threshold, 32 << 20)
        libc.mallopt(m_trim_threshold, (1 << 31) - 1)


class Trial:
    """One learning rate and seed: trains epoch by epoch, remembers its best weights."""

    def __init__(self, config: TrialConfig, data: TrialData, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.history: list[EpochRecord] = []
        weights_seed, order_seed, dropout_seed = (
            int(child.generate_state(1, np.uint64)[0] >> np.uint64(1))
            for child in np.random.SeedSequence(config.seed).spawn(len(_STREAMS))
        )
        self.model: FMLP = build_model(config.architecture, weights_seed).to(device)
        self.masks = self.model.seed_dropout(dropout_seed, device)
        self.order = np.random.Generator(np.random.PCG64(order_seed))
        self.optimizer = Adam(
            self.model.parameters(), config.learning_rate, config.recipe.weight_decay
        )
        self.gradients = gradients_for(
            self.model, self.masks, device, bf16=config.precision == "bf16"
        )
        self.data = data
        self.train_images = _tensor(data.train_images, device)
        self.train_labels = _tensor(data.train_labels, device)
        self.best_weights = self._copy_weights()

    @property
    def epoch(self) -> int:
        """Epochs done so far."""
        return len(self.history)

    @property
    def best_epoch(self) -> int | None:
        best = best_epoch(self.history)
        return None if best is None else best.epoch

    def train_epoch(self) -> EpochRecord:
        """One pass over the training split and one over the validation split.

        Raises `DivergedError` as soon as the loss is not finite.
        """
        started = time.perf_counter()
        train_loss, predicted, labels = self._train_pass()
        trained = time.perf_counter()
        n_classes = self.config.architecture.output
        val_labels = self.data.train_labels[self.data.val_indices]
        val_loss, val_predicted, _ = self._evaluate(
            self.train_images, self.train_labels, self.data.val_indices
        )
        if not math.isfinite(val_loss):
            raise DivergedError(f"the validation loss became {val_loss} in epoch {self.epoch + 1}")
        record = EpochRecord(
            epoch=self.epoch + 1,
            train_loss=train_loss,
            train_accuracy=metrics.accuracy(labels, predicted),
            train_f1=metrics.macro_f1(labels, predicted, n_classes),
            val_loss=val_loss,
            val_accuracy=metrics.accuracy(val_labels, val_predicted),
            val_f1=metrics.macro_f1(val_labels, val_predicted, n_classes),
            seconds=time.perf_counter() - started,
            images_per_second=len(labels) / (trained - started),
        )
        self.history.append(record)
        if self.best_epoch == record.epoch:
            self.best_weights = self._copy_weights()
        return record

    def test(self) -> TestOutcome:
        """The test set, for the chosen epoch's weights and the last epoch's."""
        images = _tensor(self.data.test_images, self.device)
        labels = _tensor(self.data.test_labels, self.device)
        everything = np.arange(len(self.data.test_labels))
        n_classes = self.config.architecture.output
        last_weights = self._copy_weights()
        last_loss, predicted_last, _ = self._evaluate(images, labels, everything)
        self.model.load_state_dict(self.best_weights)
        best_loss, predicted, confidence = self._evaluate(images, labels, everything)
        self.model.load_state_dict(last_weights)
        truth = self.data.test_labels
        assert self.best_epoch is not None, "a trial is tested after its epochs"
        return TestOutcome(
            best=metrics.test_record(self.best_epoch, best_loss, truth, predicted, n_classes),
            last=metrics.test_record(self.epoch, last_loss, truth, predicted_last, n_classes),
            predicted=predicted,
            confidence=confidence,
            predicted_last=predicted_last,
        )

    def state(self) -> TrialState:
        """Everything that the next epoch depends on, and the best weights so far.

        On the CPU the tensors are the trial's own: write or copy them before it trains on.
        """
        tensors = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        if self.best_epoch != self.epoch:
            tensors |= {f"best/{name}": value for name, value in self.best_weights.items()}
        tensors |= {f"adam/{name}": value for name, value in self.optimizer.state().items()}
        order: dict[str, Any] = dict(self.order.bit_generator.state)
        facts = {
            "learning_rate": self.config.learning_rate,
            "seed": self.config.seed,
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "history": [record.to_json() for record in self.history],
            "batch_order": order,
            "dropout": self.masks.state(),
        }
        on_cpu = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        return TrialState(on_cpu, facts)

    def load_state(self, state: TrialState) -> None:
        """Continue from `state`, which must come from a trial of the same configuration."""
        tensors, facts = state.tensors, state.facts
        self.history = [EpochRecord.from_json(row) for row in facts["history"]]
        self.order.bit_generator.state = facts["batch_order"]
        self.masks.load_state(facts["dropout"])
        self.model.load_state_dict(_with_prefix(tensors, "model/"))
        # With no tensors of its own the best epoch is the latest one.
        self.best_weights = {
            name: value.to(self.device) for name, value in _with_prefix(tensors, "best/").items()
        } or self._copy_weights()
        self.optimizer.load_state(_with_prefix(tensors, "adam/"))

    def _train_pass(self) -> tuple[float, NDArray[np.int64], NDArray[np.int64]]:
        """One epoch of steps; mean loss, predictions and labels int64 `[N]` in batch order."""
        self.model.train()
        order = self.data.train_indices[self.order.permutation(len(self.data.train_indices))]
        rows = torch.from_numpy(order).to(self.device)
        predicted = torch.empty(len(order), dtype=torch.int64, device=self.device)
        recipe = self.config.recipe
        spans = list(batches(len(order), self.config.batch_size))
        losses = torch.empty(len(spans), device=self.device)
        every = 1 if self.device.type == "cpu" else _FINITE_CHECK_STEPS
        for step, (start, stop) in enumerate(spans):
            labels = self.train_labels.index_select(0, rows[start:stop])
            images = self.train_images.index_select(0, rows[start:stop])
            self.optimizer.learning_rate = learning_rate_at(
                recipe.schedule,
                self.config.learning_rate,
                self.epoch * len(spans) + step,
                self.config.epochs * len(spans),
            )
            loss, logits = self.gradients(self._scale(images), labels, recipe.label_smoothing)
            self.optimizer.step()
            if recipe.label_smoothing:
                # Recorded against the labels as they are, so that recipes can be compared by it.
                loss = functional.cross_entropy(logits.float(), labels)
            losses[step] = loss
            predicted[start:stop] = logits.argmax(dim=1)
            # A loss that has once become NaN stays so: a GPU is not made to wait for each step.
            if (step + 1) % every == 0 and not math.isfinite(float(loss)):
                raise DivergedError(
                    f"the training loss became {float(loss)} in epoch {self.epoch + 1}, "
                    f"step {step + 1}"
                )
        sizes = torch.tensor([stop - start for start, stop in spans], dtype=torch.float64)
        mean_loss = float(losses.cpu().double() @ sizes) / len(order)
        if not math.isfinite(mean_loss):
            raise DivergedError(f"the training loss became {mean_loss} in epoch {self.epoch + 1}")
        return mean_loss, predicted.cpu().numpy(), self.data.train_labels[order]

    @torch.inference_mode()
    def _evaluate(
        self, images: Tensor, labels: Tensor, indices: NDArray[np.int64]
    ) -> tuple[float, NDArray[np.int64], NDArray[np.float32]]:
        """Mean loss, predicted classes int64 `[N]` and their probabilities float32 `[N]`."""
        self.model.eval()
        total, predicted, confidence = 0.0, [], []
        for start in range(0, len(indices), _EVALUATION_BATCH):
            rows = _tensor(indices[start : start + _EVALUATION_BATCH], self.device)
            with self._autocast():
                logits = self.model(self._scale(images[rows]))
            logits = logits.float()
            total += float(functional.cross_entropy(logits, labels[rows], reduction="sum"))
            top = logits.softmax(dim=1).max(dim=1)
            predicted.append(top.indices)
            confidence.append(top.values)
        return (
            total / len(indices),
            torch.cat(predicted).cpu().numpy(),
            torch.cat(confidence).cpu().numpy(),
        )

    def _scale(self, pixels: Tensor) -> Tensor:
        """uint8 `[N, 784]` to float32 with the training split's mean 0 and deviation 1."""
        return scale_pixels(pixels, self.data.scaling)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.config.precision == "bf16"
        )

    def _copy_weights(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}


def batches(count: int, size: int) -> Iterator[tuple[int, int]]:
    """Start and stop of each batch of `size` (at least 2) out of `count` rows.

    The last, partial batch is kept, but a single left-over row joins the batch before it: batch
    norm has no variance to divide by for one row.
    """
    starts = list(range(0, count, size))
    if len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    yield from zip(starts, [*starts[1:], count], strict=True)


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _tensor(array: NDArray[Any], device: torch.device) -> Tensor:
    """The array as a tensor, sharing its memory on the CPU; it may be read-only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array).to(device)
