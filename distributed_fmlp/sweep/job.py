"""What one attempt at a run is made of: the options, the data, the places, the trials so far.

All that can be wrong with them is found out here, so neither torch nor Ray, which take seconds to
import, is imported before it is known that there is something to train.
"""

from __future__ import annotations

import math
import os
import sys
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distributed_fmlp import provenance
from distributed_fmlp.architecture import Architecture
from distributed_fmlp.data import (
    Dataset,
    Scaling,
    Split,
    load_dataset,
    measure_scaling,
    stratified_split,
)
from distributed_fmlp.errors import OptionError, RunError
from distributed_fmlp.options import SweepOptions
from distributed_fmlp.records import TrialRecord
from distributed_fmlp.run_directory import Run, write_json
from distributed_fmlp.sweep.searching import (
    architecture_of,
    are_asked,
    asked_trials,
    described,
    recipe_of,
)
from distributed_fmlp.sweep.storage import Storage, open_storage

if TYPE_CHECKING:
    from distributed_fmlp.training import TrialConfig, TrialData

FORMAT_VERSION = 1
SPLIT_SEED = 0
DIVERGED = "diverged: "  # how the reason of a trial begins that more training can't mend


@dataclass
class Sweep:
    """One attempt at a run: what is asked, the arrays, the places, and what is known of trials."""

    options: SweepOptions
    path: Path
    storage: Storage
    dataset: Dataset
    split: Split
    scaling: Scaling
    info: dict[str, Any]  # run.json
    trials: list[TrialRecord]
    # Where the command goes on to serve: not the run's, but part of the command that resumes it.
    serve_port: int | None = None

    @property
    def pending(self) -> list[TrialRecord]:
        """Trials that more training can bring on."""
        return [trial for trial in self.trials if not is_settled(trial)]

    @property
    def trial_data(self) -> TrialData:
        from distributed_fmlp.training import TrialData

        return TrialData.of(self.dataset, self.split, self.scaling)

    def config(self, trial: TrialRecord) -> TrialConfig:
        """What defines a trial."""
        from distributed_fmlp.training import TrialConfig

        return TrialConfig(
            learning_rate=trial.learning_rate,
            seed=trial.seed,
            epochs=self.options.epochs,
            batch_size=self.options.batch_size,
            architecture=architecture_of(
                Architecture.from_json(self.info["architecture"]), trial.hyperparameters
            ),
            precision=self.options.precision,
            recipe=recipe_of(self.options.recipe, trial.hyperparameters),
        )

    def save(self) -> None:
        """Write run.json."""
        write_json(self.path / "run.json", self.info)


def is_settled(trial: TrialRecord) -> bool:
    """Whether a trial needs no more training: finished, stopped by the search, or diverged."""
    diverged = trial.status == "failed" and (trial.reason or "").startswith(DIVERGED)
    return trial.status in ("finished", "stopped") or diverged


def new_sweep(options: SweepOptions) -> Sweep:
    """A run that is yet to begin; nothing is written. Raises `UserError` for unusable options."""
    results = Path(options.results).expanduser()
    if options.name is not None and os.path.exists(results / options.name):
        raise RunError(
            f"run {options.name} exists in {results}: choose another --name, or continue it with "
            f"--resume {options.name}"
        )
    dataset = _load_data(options)
    split = stratified_split(dataset.train_labels, options.val_fraction, SPLIT_SEED)
    name = options.name or _default_name(dataset, results)
    path = results / name
    scaling = measure_scaling(dataset.train_images[split.train_indices])
    trials = asked_trials(options)
    info = {
        "format_version": FORMAT_VERSION,
        "run_id": uuid.uuid4().hex,
        "name": name,
        "created": provenance.now(),
        "finished": None,
        "status": "running",
        "command": options.command(),
        "options": {**options.to_json(), "name": name},
        "dataset": {
            "name": dataset.name,
            "sha256": dataset.sha256,
            "substituted": dataset.substituted,
            "class_names": list(dataset.class_names),
            "n_train": len(split.train_indices),
            "n_validation": len(split.val_indices),
            "n_test": len(dataset.test_labels),
        },
        "split": {"seed": split.seed, "fraction": split.fraction, "sha256": split.sha256},
        "scaling": {"mean": scaling.mean, "std": scaling.std},
        "architecture": replace(
            options.architecture, output=len(dataset.class_names)
        ).to_json(),
        "trials": [
            {key: value for key, value in trial.to_json().items()
             if key in ("trial_id", "learning_rate", "seed")
             or (key == "hyperparameters" and value)}
            for trial in trials
        ],
        "search": described(options),
        "source": provenance.source(),
        "versions": provenance.versions(),
        "machine": provenance.machine(),
        "attempts": [],
        "seconds": 0.0,
    }  # fmt: skip
    storage = open_storage(options.storage, path, name)
    return Sweep(options, path, storage, dataset, split, scaling, info, trials)


def resumed_sweep(run: Run, options: SweepOptions) -> Sweep:
    """A run to go on with.

    Raises `RunError` when its data is not what it was started with, or its run.json is damaged.
    """
    info = dict(run.info)
    _check_resumable(run, options)
    # The data set the run took is the one it needs, whatever can be had by now.
    dataset = _load_data(replace(options, dataset=info["dataset"]["name"]))
    if dataset.sha256 != info["dataset"]["sha256"]:
        raise RunError(
            f"run {info['name']} was started with another {dataset.name} (SHA-256 "
            f"{info['dataset']['sha256'][:12]}, not {dataset.sha256[:12]}): give its data with "
            "--data-dir"
        )
    dataset = replace(dataset, substituted=info["dataset"]["substituted"])
    split = stratified_split(dataset.train_labels, info["split"]["fraction"], info["split"]["seed"])
    if split.sha256 != info["split"]["sha256"]:
        raise RunError(
            f"run {info['name']} was split by another version of this program: install the "
            "versions in its run.json to resume it"
        )
    for library, version in provenance.versions().items():
        was = info["versions"].get(library)
        if was != version:
            print(f"note: {library} is {version}, was {was}: the bits may differ", file=sys.stderr)
    storage = open_storage(options.storage, run.path, info["name"])
    return Sweep(
        options, run.path, storage, dataset, split, Scaling(**info["scaling"]), info, run.trials
    )


def recorded_options(run: Run) -> SweepOptions:
    """The options a run was started with. Raises `RunError` when they can't be read."""
    try:
        return SweepOptions.from_json(run.info["options"])
    except (TypeError, ValueError, OptionError) as error:
        raise _damaged(run, f"its options can't be read: {error}") from error


def _check_resumable(run: Run, options: SweepOptions) -> None:
    """Raises `RunError` when run.json lacks what a run is resumed from, or contradicts itself."""
    info = run.info
    classes = len(info["dataset"]["class_names"])
    try:
        whole = (
            are_asked(run.trials, options)
            and info["architecture"] == replace(options.architecture, output=classes).to_json()
            and info["split"]["fraction"] == options.val_fraction
            and info["split"]["seed"] == SPLIT_SEED
            and isinstance(info["split"]["sha256"], str)
            and isinstance(info["run_id"], str)
            and isinstance(info["versions"], dict)
            and math.isfinite(info["seconds"])
            and math.isfinite(info["scaling"]["mean"])
            and info["scaling"]["std"] > 0
            and all({"ended", "outcome"} <= set(attempt) for attempt in info["attempts"])
            and isinstance(info.get("resources", {}), dict)
        )
    except (KeyError, TypeError) as error:
        raise _damaged(run, f"a part is missing or of the wrong kind: {error}") from error
    if not whole:
        raise _damaged(run, "its parts contradict each other")


def _damaged(run: Run, what: str) -> RunError:
    return RunError(
        f"{run.path / 'run.json'} is damaged ({what}); restore the file, or start a new run"
    )


def _load_data(options: SweepOptions) -> Dataset:
    directory = None if options.data_dir is None else Path(options.data_dir)
    say = (lambda line: None) if options.quiet else (lambda line: print(line, flush=True))
    return load_dataset(options.dataset, directory, on_progress=say)


def _default_name(dataset: Dataset, results: Path) -> str:
    named = "digits-in-place-of-fashion-mnist" if dataset.substituted else dataset.name
    stem = f"{named}_{datetime.now(UTC):%Y%m%d-%H%M%S}"
    name, number = stem, 1
    while os.path.exists(results / name):
        number += 1
        name = f"{stem}-{number}"
    return name
