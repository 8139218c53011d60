"""The tests' recipe trained without Ray, in a process of its own as the sweep's trials are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

from distributed_fmlp.architecture import Architecture
from distributed_fmlp.bundle import weights_sha256
from distributed_fmlp.data import load_dataset, measure_scaling, stratified_split
from distributed_fmlp.recipe import Recipe
from distributed_fmlp.training import Trial, TrialConfig, TrialData, prepare_process

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 10


def plain_weights(learning_rate: float, seed: int, recipe: Recipe | None = None) -> list[str]:
    """SHA-256 of the best and of the last epoch's weights, on one thread."""
    told = json.dumps([learning_rate, seed, (recipe or Recipe()).to_json()])
    words = [sys.executable, "-m", "tests.sweep.plain_training", told]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def train(learning_rate: float, seed: int, recipe: Recipe) -> Trial:
    prepare_process(1)
    digits = load_dataset("digits")
    split = stratified_split(digits.train_labels, 0.2)
    scaling = measure_scaling(digits.train_images[split.train_indices])
    config = TrialConfig(
        learning_rate,
        seed,
        EPOCHS,
        batch_size=8,
        architecture=Architecture(hidden=(256, 64), dropout=(0.3, 0.3)),
        recipe=recipe,
    )
    trial = Trial(config, TrialData.of(digits, split, scaling), torch.device("cpu"))
    while trial.epoch < EPOCHS:
        trial.train_epoch()
    return trial


if __name__ == "__main__":
    rate, seed, added = json.loads(sys.argv[1])
    trained = train(rate, seed, Recipe.from_json(added))
    print(weights_sha256(trained.best_weights), weights_sha256(trained.model.state_dict()))
