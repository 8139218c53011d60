"""Build run directories with plausible made-up figures, through the package's own writers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distributed_fmlp.records import EpochRecord, TestRecord, TrialRecord, best_epoch
from distributed_fmlp.run_directory import Predictions, save_trial, write_json

FASHION = [
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
]
RATES = (0.005, 0.001, 0.0009, 0.0006)


def make_info(trials: Sequence[TrialRecord], **changes: Any) -> dict[str, Any]:
    """A valid `run.json` of the published recipe; `changes` replace whole keys."""
    info: dict[str, Any] = {
        "format_version": 1,
        "name": "fashion-mnist-test",
        "created": "2026-11-20T10:00:00+00:00",
        "finished": "2026-11-20T10:09:00+00:00",
        "status": "finished",
        "command": "python -m distributed_fmlp.tune",
        "options": {"epochs": 25, "batch_size": 64, "lr": list(RATES), "seed": [0]},
        "dataset": {
            "name": "fashion-mnist",
            "sha256": "ab" * 32,
            "substituted": False,
            "class_names": FASHION,
            "n_train": 48000,
            "n_validation": 12000,
            "n_test": 10000,
        },
        "split": {"seed": 0, "fraction": 0.2, "sha256": "cd" * 32},
        "scaling": {"mean": 0.286, "std": 0.353},
        "architecture": {
            "input": 784,
            "hidden": [1024, 512, 256, 128],
            "output": 10,
            "dropout": [0.3, 0.3, 0.3, 0.3],
        },
        "trials": [
            {"trial_id": t.trial_id, "learning_rate": t.learning_rate, "seed": t.seed}
            for t in trials
        ],
        "seconds": 540.0,
    }
    return {**info, **changes}


def make_epochs(count: int, draw: np.random.Generator, rate: float = 0.001) -> list[EpochRecord]:
    """Curves of the published shape with a little noise."""
    rows = []
    for epoch in range(1, count + 1):
        train_loss = 0.60 * epoch**-0.37 + draw.normal(0, 0.003)
        val_loss = 0.285 + 0.09 * epoch**-0.9 + 0.02 * rate / 0.005 + draw.normal(0, 0.006)
        train = 0.795 + 0.0425 * np.log(epoch) + draw.normal(0, 0.0006)
        val = 0.866 + 0.0112 * np.log(epoch) + draw.normal(0, 0.002)
        row = (train_loss, train, train - 0.0003, val_loss, val, val - 0.0004)
        rows.append(EpochRecord(epoch, *(float(value) for value in row), 9.5, 5300.0))
    return rows


def make_test(labels: np.ndarray, predicted: np.ndarray, epoch: int, loss: float) -> TestRecord:
    """Test figures that really are those of these predictions."""
    matrix = np.zeros((10, 10), int)
    np.add.at(matrix, (labels, predicted), 1)
    hits = np.diag(matrix)
    precision, recall = hits / np.maximum(matrix.sum(0), 1), hits / np.maximum(matrix.sum(1), 1)
    f1 = 2 * hits / np.maximum(matrix.sum(0) + matrix.sum(1), 1)
    return TestRecord(
        epoch,
        loss,
        float(hits.sum() / len(labels)),
        float(f1.mean()),
        precision.tolist(),
        recall.tolist(),
        f1.tolist(),
        matrix.tolist(),
    )


def make_predictions(draw: np.random.Generator, count: int = 1000) -> Predictions:
    """About nine in ten right, with the confusions FashionMNIST is known for."""
    label = np.arange(count) % 10
    confused = np.array([6, 3, 4, 0, 2, 7, 0, 9, 6, 7])

    def one_model() -> np.ndarray:
        wrong = draw.random(count) < np.where(np.isin(label, (0, 2, 4, 6)), 0.19, 0.035)
        return np.where(
            wrong, np.where(draw.random(count) < 0.8, confused[label], label[::-1]), label
        )

    predicted, last = one_model(), one_model()
    confidence = np.where(predicted == label, draw.beta(9, 1, count), draw.beta(4, 2, count))
    return Predictions(
        label.astype(np.uint8),
        predicted.astype(np.uint8),
        last.astype(np.uint8),
        confidence.astype(np.float32),
    )


def make_run(
    path: Path,
    rates: Sequence[float] = RATES,
    seeds: Sequence[int] = (0,),
    epochs: int = 25,
    images: int = 1000,
    **changes: Any,
) -> Path:
    """Write a finished run directory; `changes` replace keys of its `run.json`."""
    trials = []
    for rate in rates:
        for seed in seeds:
            draw = np.random.default_rng([seed, int(rate * 1e7)])
            rows = make_epochs(epochs, draw, rate)
            best = best_epoch(rows)
            assert best is not None
            predictions = make_predictions(draw, images)
            label = predictions.label
            trial = TrialRecord(
                f"lr_{rate}_seed_{seed}",
                rate,
                seed,
                status="finished",
                epochs=rows,
                best_epoch=best.epoch,
                test_best=make_test(label, predictions.predicted, best.epoch, 0.29),
                test_last=make_test(label, predictions.predicted_last, epochs, 0.31),
                resources={"threads": 1, "device": "cpu", "device_name": None, "node": "here"},
            )
            save_trial(path, trial, predictions)
            trials.append(trial)
    write_json(path / "run.json", make_info(trials, **{"name": path.name, **changes}))
    return path
