"""The published results, and whether a run may be set beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from distributed_fmlp.recipe import Recipe
from distributed_fmlp.report.searched import is_search
from distributed_fmlp.run_directory import Run


@dataclass(frozen=True)
class PublishedRun:
    """What was published for one learning rate.

    Losses are per image, accuracies in percent, F1 scores as fractions.
    """

    learning_rate: float
    epochs: Sequence[Sequence[float]]  # rows in the columns of `run_directory.EPOCH_COLUMNS`
    test_loss: float
    test_accuracy_percent: float
    test_f1: float
    test_images: int = 10_000  # FashionMNIST's test set

    @property
    def last_train_loss(self) -> float:
        return self.epochs[-1][1]

    @property
    def last_train_accuracy_percent(self) -> float:
        return self.epochs[-1][2]


@cache
def published_results() -> dict[str, Any]:
    """The published results as the package carries them."""
    text = resources.files(__package__).joinpath("published_results.json").read_text("utf-8")
    results: dict[str, Any] = json.loads(text)
    return results


def published_hidden() -> list[int]:
    """The hidden sizes of Architecture 2."""
    return list(published_results()["architecture"]["hidden"])


def same_data(run: Run) -> bool:
    """Whether a run's data is what the published figures are of."""
    dataset = run.info["dataset"]
    return bool(dataset["name"] == "fashion-mnist" and not dataset["substituted"])


def why_not_beside(run: Run) -> str | None:
    """Why the published figures are not set beside this run, in one sentence; None when they are.

    They are only for a run of the published recipe on the same data: anything else would make two
    different experiments look like one.
    """
    published = published_results()
    training, architecture = published["training"], published["architecture"]
    dataset, options = run.info["dataset"], run.info["options"]
    if not same_data(run):
        return (
            "The published figures are not set beside these: they are of fashion-mnist, and this "
            f"run's data is {dataset['name']}."
        )
    hidden, dropout = run.info["architecture"]["hidden"], run.info["architecture"]["dropout"]
    differences = []
    if hidden != architecture["hidden"]:
        differences.append(f"hidden sizes {_joined(hidden)} for {_joined(architecture['hidden'])}")
    if any(rate != training["dropout"] for rate in dropout):
        differences.append(f"dropout {_joined(sorted(set(dropout)))} for {training['dropout']}")
    for key, name in (("epochs", "epochs"), ("batch_size", "images a batch")):
        if options.get(key) != training[key]:
            differences.append(f"{options.get(key, 'unknown')} {name} for {training[key]}")
    if is_search(run):
        differences.append("several hyperparameters searched at random")
    differences += Recipe.from_json(options).additions
    if not differences:
        return None
    return (
        "The published figures are not set beside these: this run's recipe differs "
        f"({'; '.join(differences)})."
    )


def published_beside(run: Run, learning_rate: float) -> PublishedRun | None:
    """The published figures for a learning rate; None when the recipe differs or it has none."""
    if why_not_beside(run) is not None:
        return None
    return next((row for row in published_runs() if row.learning_rate == learning_rate), None)


@cache
def published_runs() -> tuple[PublishedRun, ...]:
    """Every published learning rate."""
    return tuple(
        PublishedRun(
            row["learning_rate"],
            row["epochs"],
            row["test"]["loss"],
            row["test"]["accuracy_percent"],
            row["test"]["f1"],
        )
        for row in published_results()["runs"]
    )


def best_published() -> PublishedRun:
    """The learning rate that the published tables name the best."""
    named = published_results()["best_learning_rate"]
    return next(row for row in published_runs() if row.learning_rate == named)


def _joined(values: Sequence[float]) -> str:
    return ", ".join(str(value) for value in values)
