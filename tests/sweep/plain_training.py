"""The trials of the tests' recipe, trained without Ray."""

from __future__ import annotations

import torch

from distributed_fmlp.architecture import Architecture
from distributed_fmlp.bundle import weights_sha256
from distributed_fmlp.data import load_dataset, measure_scaling, stratified_split
from distributed_fmlp.training import Trial, TrialConfig, TrialData, prepare_process


def last_weights(learning_rate: float, seed: int) -> str:
    """SHA-256 of the last epoch's weights of `RECIPE`, on one thread."""
    prepare_process(1)
    digits = load_dataset("digits")
    split = stratified_split(digits.train_labels, 0.2)
    data = TrialData(
        train_images=digits.train_images,
        train_labels=digits.train_labels,
        train_indices=split.train_indices,
        val_indices=split.val_indices,
        test_images=digits.test_images,
        test_labels=digits.test_labels,
        scaling=measure_scaling(digits.train_images[split.train_indices]),
    )
    architecture = Architecture(input=784, hidden=(256, 64), output=10, dropout=(0.3, 0.3))
    config = TrialConfig(learning_rate, seed, 10, 8, architecture)
    trial = Trial(config, data, torch.device("cpu"))
    while trial.epoch < config.epochs:
        trial.train_epoch()
    return weights_sha256(trial.model.state_dict())
