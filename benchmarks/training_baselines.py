"""What the sweep is measured against: the usual script, alone and inside Ray Tune trials.

Written the way PyTorch's and Ray's tutorials are, with nothing left out or put in to slow it down.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from sklearn.metrics import f1_score
from torch import nn
from torch.utils.data import DataLoader, random_split
from torchvision import datasets, transforms

BATCH_SIZE = 64


def plain_network(dropout: float = 0.3) -> nn.Sequential:
    """Architecture 2 of torch's own layers: float32 `[N, 1, 28, 28]` or `[N, 784]` to logits."""
    layers: list[nn.Module] = [nn.Flatten()]
    sizes = [784, 1024, 512, 256, 128]
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.BatchNorm1d(n_out), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(128, 10))


def train(
    learning_rate: float, epochs: int, root: str
) -> Iterator[tuple[dict[str, Any], nn.Module, torch.optim.Optimizer]]:
    """Train on the FashionMNIST under `root`; gives figures, model and optimizer every epoch."""
    torch.manual_seed(0)
    transform = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((0.2860,), (0.3530,))]
    )
    everything = datasets.FashionMNIST(root, train=True, transform=transform)
    train_set, val_set = random_split(everything, [0.8, 0.2])
    train_loader = DataLoader(train_set, batch_size=BATCH_SIZE, shuffle=True)
    val_loader = DataLoader(val_set, batch_size=BATCH_SIZE)
    model = plain_network()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)

    for epoch in range(1, epochs + 1):
        started = time.perf_counter()
        model.train()
        figures = {"epoch": epoch, **_pass(model, train_loader, criterion, "train", optimizer)}
        model.eval()
        with torch.no_grad():
            figures |= _pass(model, val_loader, criterion, "val")
        figures["seconds"] = time.perf_counter() - started
        yield figures, model, optimizer


def _pass(
    model: nn.Module,
    loader: DataLoader[Any],
    criterion: nn.Module,
    name: str,
    optimizer: torch.optim.Optimizer | None = None,
) -> dict[str, float]:
    """One pass over a loader, with steps when there is an optimizer; loss, accuracy, macro F1."""
    total_loss = 0.0
    truth: list[int] = []
    predicted: list[int] = []
    for images, labels in loader:
        outputs = model(images)
        loss = criterion(outputs, labels)
        if optimizer is not None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        total_loss += loss.item() * len(labels)
        truth.extend(labels.tolist())
        predicted.extend(outputs.argmax(dim=1).tolist())
    right = sum(a == b for a, b in zip(truth, predicted, strict=True))
    return {
        f"{name}_loss": total_loss / len(truth),
        f"{name}_accuracy": right / len(truth),
        f"{name}_f1": float(f1_score(truth, predicted, average="macro")),
    }


def one_after_another(learning_rates: list[float], epochs: int, root: str) -> dict[str, Any]:
    """The script most people would write: a loop over learning rates, torch's default threads."""
    trials = []
    for learning_rate in learning_rates:
        rows = []
        for figures, _, _ in train(learning_rate, epochs, root):
            print(learning_rate, figures, flush=True)
            rows.append(figures)
        trials.append({"learning_rate": learning_rate, "epochs": rows})
    return {"trials": trials, "at_once": 1, "threads": torch.get_num_threads()}


def tune_trial(config: dict[str, Any]) -> None:
    """A Ray Tune function trainable as the tutorials write it."""
    from ray import tune

    for figures, model, optimizer in train(config["lr"], config["epochs"], config["root"]):
        with tempfile.TemporaryDirectory() as directory:
            torch.save(
                {"model": model.state_dict(), "optimizer": optimizer.state_dict()},
                os.path.join(directory, "checkpoint.pt"),
            )
            tune.report(
                {**figures, "threads": torch.get_num_threads()},
                checkpoint=tune.Checkpoint.from_directory(directory),
            )


def inside_tune(
    learning_rates: list[float], epochs: int, root: str, storage: str
) -> dict[str, Any]:
    """The same in Ray Tune, one CPU for each trial, as many at once as there are CPUs."""
    import ray
    from ray import tune

    ray.init(address="local", include_dashboard=False)
    tuner = tune.Tuner(
        tune.with_resources(tune_trial, {"cpu": 1}),
        param_space={"lr": tune.grid_search(learning_rates), "epochs": epochs, "root": root},
        run_config=tune.RunConfig(name="baseline", storage_path=storage),
    )
    results = tuner.fit()
    trials = []
    for result in (results[number] for number in range(len(results))):
        if result.error is not None:
            raise result.error
        assert result.config is not None and result.metrics_dataframe is not None
        rows = result.metrics_dataframe.to_dict("records")
        keys = (
            "epoch",
            "seconds",
            "time_this_iter_s",
            "val_loss",
            "val_accuracy",
            "val_f1",
            "threads",
        )
        trials.append(
            {
                "learning_rate": result.config["lr"],
                "epochs": [{key: row[key] for key in keys} for row in rows],
            }
        )
    cpus = int(ray.cluster_resources()["CPU"])  # type: ignore[no-untyped-call]
    (threads,) = {int(row["threads"]) for row in trials[0]["epochs"]}
    ray.shutdown()
    return {"trials": trials, "at_once": min(len(learning_rates), cpus), "threads": threads}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("script", "tune"))
    parser.add_argument("--lr", type=float, action="append", required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--root", required=True, help="torchvision root, FashionMNIST unpacked")
    parser.add_argument("--storage", help="where Ray Tune writes; an absolute path")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    if given.kind == "script":
        measured = one_after_another(given.lr, given.epochs, given.root)
    else:
        measured = inside_tune(given.lr, given.epochs, given.root, given.storage)
    given.out.write_text(json.dumps(measured), encoding="utf-8")


if __name__ == "__main__":
    main()
