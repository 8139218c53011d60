"""The training step alone, on one thread, beside the rate of a matrix product on that thread.

`training.Trial` itself runs a pass over training images; a hook after each optimizer step takes the
time. Every few steps the pass pauses for the yardsticks: 1024 x 1024 x 1024 products in fp32, and
steps of the usual network with torch's dropout and Adam. So all of it sees the same machine, with
whatever else is going on there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from training_baselines import BATCH_SIZE, plain_network

from distributed_fmlp.architecture import Architecture
from distributed_fmlp.data import load_dataset, measure_scaling, stratified_split
from distributed_fmlp.model import scale_pixels
from distributed_fmlp.training import Trial, TrialConfig, TrialData, prepare_process

PAUSE_EVERY = 20  # steps
WARM_UP = 20  # steps of each kind that don't count
PRODUCTS_PER_PAUSE = 4
SIZE = 1024


def trial_data(dataset_name: str, data_dir: Path | None, steps: int) -> TrialData:
    """The data as a sweep has it, with training images for `steps` batches, drawn from all."""
    dataset = load_dataset(dataset_name, data_dir)
    split = stratified_split(dataset.train_labels, 0.2, 0)
    random = np.random.default_rng(0)
    # Small sets give the same image several times; a step doesn't mind.
    chosen = random.choice(
        split.train_indices,
        steps * BATCH_SIZE,
        replace=len(split.train_indices) < steps * BATCH_SIZE,
    )
    scaling = measure_scaling(dataset.train_images[split.train_indices])
    return replace(TrialData.of(dataset, split, scaling), train_indices=chosen)


class Products:
    """Seconds of single fp32 matrix products, `SIZE` cubed."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self._left, self._right = (torch.randn(SIZE, SIZE, generator=generator) for _ in range(2))
        self._out = torch.empty(SIZE, SIZE)
        self.seconds: list[float] = []

    def pause(self) -> None:
        torch.mm(self._left, self._right, out=self._out)  # the caches forget the step before it
        for _ in range(PRODUCTS_PER_PAUSE):
            started = time.perf_counter()
            torch.mm(self._left, self._right, out=self._out)
            self.seconds.append(time.perf_counter() - started)


class UsualSteps:
    """Seconds of single steps with torch's dropout and Adam, on the same images."""

    def __init__(self, data: TrialData, *, fused: bool | None) -> None:
        torch.manual_seed(0)
        self._data = data
        self._images = torch.tensor(data.train_images)
        self._labels = torch.tensor(data.train_labels)
        self._model = plain_network().train()
        self._optimizer = torch.optim.Adam(self._model.parameters(), lr=0.001, fused=fused)
        self._next = 0
        self._total = torch.zeros((), dtype=torch.float64)
        self.seconds: list[float] = []

    def pause(self) -> None:
        for _ in range(PAUSE_EVERY):
            started = time.perf_counter()
            self._step()
            self.seconds.append(time.perf_counter() - started)

    def _step(self) -> None:
        order = self._data.train_indices
        start = self._next
        self._next = (start + BATCH_SIZE) % len(order)
        rows = torch.from_numpy(order[start : start + BATCH_SIZE])
        images: Tensor = scale_pixels(self._images[rows], self._data.scaling)
        labels = self._labels[rows]
        logits = self._model(images)
        loss = functional.cross_entropy(logits, labels)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._total += loss.detach().double() * len(rows)
        logits.detach().argmax(dim=1)


def time_steps(trial: Trial, pauses: list[Callable[[], None]]) -> list[float]:
    """Seconds from one optimizer step's end to the next's in one epoch of `trial`, pauses apart."""
    seconds: list[float] = []
    since = 0.0

    step = trial.optimizer.step

    def timed_step() -> None:
        nonlocal since
        step()
        if since:  # the first step's start is not known
            seconds.append(time.perf_counter() - since)
        if len(seconds) % PAUSE_EVERY == 0:
            for pause in pauses:
                pause()
        since = time.perf_counter()

    trial.optimizer.step = timed_step  # type: ignore[method-assign]
    trial.train_epoch()
    return seconds


def measure(dataset_name: str, data_dir: Path | None, steps: int) -> dict[str, Any]:
    """Times of at least `steps` steps of each kind, in seconds, after `WARM_UP` of each."""
    prepare_process(threads=1)
    data = trial_data(dataset_name, data_dir, steps + WARM_UP + 1)
    config = TrialConfig(0.001, 0, 1, BATCH_SIZE, Architecture())
    trial = Trial(config, data, torch.device("cpu"))
    products = Products()
    usual = {"eager Adam": UsualSteps(data, fused=None), "fused Adam": UsualSteps(data, fused=True)}
    seconds = time_steps(trial, [products.pause, *(each.pause for each in usual.values())])
    weights = sum(
        parameter.numel() for parameter in trial.model.parameters() if parameter.dim() == 2
    )
    return {
        "batch_size": BATCH_SIZE,
        "threads": torch.get_num_threads(),
        "weights": weights,
        "first_layer_weights": trial.model.hidden[0][0].weight.numel(),  # type: ignore[index]
        "step": summary(seconds[WARM_UP:]),
        "product": summary(products.seconds[PRODUCTS_PER_PAUSE:]),
        "product_flop": 2 * SIZE**3,
        "usual": {name: summary(each.seconds[WARM_UP:]) for name, each in usual.items()},
    }


def summary(seconds: list[float]) -> dict[str, float]:
    """Count, median, quartiles and minimum."""
    lower, median, upper = statistics.quantiles(seconds, n=4)
    return {
        "count": len(seconds),
        "median": median,
        "lower_quartile": lower,
        "upper_quartile": upper,
        "least": min(seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="fashion-mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    measured = measure(given.dataset, given.data_dir, given.steps)
    given.out.write_text(json.dumps(measured), encoding="utf-8")


if __name__ == "__main__":
    main()
