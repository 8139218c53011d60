"""The recipes that `results/improved` was chosen from, by their validation accuracy over seeds.

    python benchmarks/recipes.py [--seeds 0 1 2] [--at-once 2] [--json FILE]

Plain training without Ray, one thread a trial: FashionMNIST, 25 epochs, batch 64, 48,000 images to
train on and 12,000 to choose by. The test images are dropped before anything is trained, so nothing
here can be chosen by them. Trials that are in FILE already are not trained again.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from distributed_fmlp.architecture import Architecture
from distributed_fmlp.data import load_dataset, measure_scaling, stratified_split
from distributed_fmlp.recipe import Recipe
from distributed_fmlp.training import Trial, TrialConfig, TrialData, prepare_process

_EPOCHS = 25
_SMOOTHING, _DECAY = 0.1, 0.05
FINALISTS: dict[str, tuple[float, Recipe]] = {
    "published, 0.001": (0.001, Recipe()),
    "cosine, 0.002": (0.002, Recipe("cosine")),
    "cosine, smoothing, 0.002": (0.002, Recipe("cosine", _SMOOTHING)),
    "cosine, decay, 0.002": (0.002, Recipe("cosine", 0.0, _DECAY)),
    "cosine, smoothing, decay, 0.002": (0.002, Recipe("cosine", _SMOOTHING, _DECAY)),
    "cosine, smoothing, decay, 0.001": (0.001, Recipe("cosine", _SMOOTHING, _DECAY)),
    "cosine, smoothing, decay, 0.003": (0.003, Recipe("cosine", _SMOOTHING, _DECAY)),
}


@dataclass(frozen=True)
class Validated:
    """One trial's best validation accuracy, as a share of 1."""

    recipe: str
    seed: int
    val_accuracy: float
    epoch: int


def train(name: str, seed: int) -> Validated:
    prepare_process(1)
    learning_rate, recipe = FINALISTS[name]
    dataset = load_dataset("fashion-mnist")
    split = stratified_split(dataset.train_labels, 0.2)
    scaling = measure_scaling(dataset.train_images[split.train_indices])
    data = TrialData.of(dataset, split, scaling)
    data = dataclasses.replace(
        data, test_images=data.test_images[:0], test_labels=data.test_labels[:0]
    )
    config = TrialConfig(learning_rate, seed, _EPOCHS, 64, Architecture(), recipe=recipe)
    trial = Trial(config, data, torch.device("cpu"))
    records = [trial.train_epoch() for _ in range(_EPOCHS)]
    (best,) = [record for record in records if record.epoch == trial.best_epoch]
    return Validated(name, seed, best.val_accuracy, best.epoch)


def table(rows: list[Validated]) -> str:
    """As Markdown: each recipe's mean over its seeds, best first."""
    by_recipe: dict[str, dict[int, float]] = {}
    for row in rows:
        by_recipe.setdefault(row.recipe, {})[row.seed] = 100 * row.val_accuracy
    means = {name: statistics.mean(found.values()) for name, found in by_recipe.items()}
    lines = ["| recipe, learning rate | validation accuracy, mean | each seed |", "| - | - | - |"]
    for name in sorted(means, key=means.__getitem__, reverse=True):
        each = ", ".join(f"{by_recipe[name][seed]:.2f}" for seed in sorted(by_recipe[name]))
        lines.append(f"| {name} | {means[name]:.2f} % | {each} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where to write the figures, and read them")
    options = parser.parse_args()
    rows: list[Validated] = []
    if options.json and options.json.exists():
        rows = [Validated(**row) for row in json.loads(options.json.read_text())]
    done = {(row.recipe, row.seed) for row in rows}
    wanted = [each for each in itertools.product(FINALISTS, options.seeds) if each not in done]
    wanted.sort(key=lambda each: each[1])  # every recipe's first seed before any second
    with ProcessPoolExecutor(options.at_once, max_tasks_per_child=1) as pool:
        for trained in as_completed([pool.submit(train, *each) for each in wanted]):
            rows.append(trained.result())
            print(rows[-1], flush=True)
            if options.json:
                text = json.dumps([asdict(row) for row in rows], indent=2) + "\n"
                partial = options.json.with_suffix(".partial")
                partial.write_text(text)
                partial.replace(options.json)
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
