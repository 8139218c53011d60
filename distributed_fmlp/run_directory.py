"""Read and write the run directory, the contract between the sweep and all that comes after it.

Its layout is described in `docs/run-directory.md`. Every file is written whole or not at all.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distributed_fmlp.errors import RunError
from distributed_fmlp.records import EpochRecord, TestRecord, TrialRecord, best_epoch

FORMAT_VERSION = 1
RUN_STATUSES = ("running", "stopped", "finished", "failed")
TRIAL_STATUSES = ("pending", "running", "finished", "stopped", "failed")
EPOCH_COLUMNS = (
    "epoch",
    "train_loss",
    "train_accuracy_percent",
    "train_f1",
    "val_loss",
    "val_accuracy_percent",
    "val_f1",
)


@dataclass(frozen=True)
class Predictions:
    """What one trial's models said of each test image, in the order of the test set."""

    label: npt.NDArray[np.uint8]  # [N], the true class
    predicted: npt.NDArray[np.uint8]  # [N], by the chosen epoch
    predicted_last: npt.NDArray[np.uint8]  # [N], by the last epoch
    confidence: npt.NDArray[np.float32]  # [N], the probability of `predicted`


@dataclass(frozen=True)
class Run:
    """One run directory, read and checked."""

    path: Path
    info: dict[str, Any]  # run.json
    trials: list[TrialRecord]  # in the order of run.json


# Writing


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; missing parent directories are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    # os.open rather than tempfile: the file gets the permissions the user's umask asks for.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text whole or not at all; line ends are written as given."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write valid JSON whole or not at all.

    Floats keep full precision. JSON has no number for them, so not-a-number and the infinities
    are written as the strings "NaN", "Infinity" and "-Infinity"; `load_run` turns those of a
    trial's measurements back into numbers.
    """
    text = json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def format_learning_rate(learning_rate: float) -> str:
    """The shortest text that reads back as the same number, as file names have it: 0.001, 1e-05."""
    return repr(float(learning_rate))


def trial_directory(run_path: Path, trial_id: str) -> Path:
    """Where a trial's files are."""
    return run_path / "trials" / trial_id


def save_trial(run_path: Path, trial: TrialRecord, predictions: Predictions | None = None) -> None:
    """Write `trial.json`, `epochs.csv` and, when given, `test_predictions.npz` of one trial.

    `trial.json` comes last: where it says `finished`, the other files are there. The same values
    give the same bytes.
    """
    directory = trial_directory(run_path, trial.trial_id)
    if predictions is not None:
        write_bytes(directory / "test_predictions.npz", _npz(predictions))
    write_text(directory / "epochs.csv", epochs_csv(trial.epochs))
    write_json(directory / "trial.json", trial.to_json())


def epochs_csv(epochs: Sequence[EpochRecord]) -> str:
    """Epochs in the published columns: accuracies in percent, F1 as fractions, six digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(EPOCH_COLUMNS)
    for row in epochs:
        values = (
            row.train_loss,
            100 * row.train_accuracy,
            row.train_f1,
            row.val_loss,
            100 * row.val_accuracy,
            row.val_f1,
        )
        writer.writerow([row.epoch, *(f"{value:.6g}" for value in values)])
    return text.getvalue()


def _npz(predictions: Predictions) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        label=np.asarray(predictions.label, np.uint8),
        predicted=np.asarray(predictions.predicted, np.uint8),
        predicted_last=np.asarray(predictions.predicted_last, np.uint8),
        confidence=np.asarray(predictions.confidence, np.float32),
    )
    return buffer.getvalue()


# Reading


def load_run(path: Path) -> Run:
    """Read `run.json` and every trial's `trial.json`.

    A trial that has no `trial.json` yet is a `TrialRecord` with the status `pending`. Raises
    `RunError` when the directory is missing, is no run, was written by a newer format, or when a
    file in it is damaged (the file is named).
    """
    if not path.is_dir():
        raise RunError(f"{path}: no such run directory; give a run's directory or its name")
    if not (path / "run.json").is_file():
        raise RunError(f"{path} is no run: it has no run.json; give a directory the sweep wrote")
    info = _checked_info(path / "run.json")
    n_classes = len(info["dataset"]["class_names"])
    trials = [_load_trial(path, entry, n_classes) for entry in info["trials"]]
    lost = [trial.trial_id for trial in trials if trial.status == "pending"]
    if lost and info["status"] == "finished":
        first = trial_directory(path, lost[0]) / "trial.json"
        raise _damaged(
            first, f"missing; {len(lost)} of {len(trials)} are, though the run has finished"
        )
    return Run(path, info, trials)


def load_predictions(run_path: Path, trial_id: str) -> Predictions | None:
    """One trial's test predictions, or None when it has none yet; `RunError` when damaged."""
    path = trial_directory(run_path, trial_id) / "test_predictions.npz"
    if not path.exists():
        return None
    kinds = {"label": "u1", "predicted": "u1", "predicted_last": "u1", "confidence": "f4"}
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in kinds}
    except Exception as error:  # a damaged archive raises whatever its reader happens to raise
        raise _damaged(path, str(error) or type(error).__name__) from error
    shape = arrays["label"].shape
    for name, kind in kinds.items():
        array = arrays[name]
        if array.dtype != np.dtype(kind) or array.ndim != 1 or array.shape != shape:
            raise _damaged(path, f"`{name}` is {array.dtype} {list(array.shape)}")
    return Predictions(**arrays)


def newest_run(results: Path) -> Path:
    """The run under `results` whose `run.json` says it was created last; `RunError` if none."""
    return _newest(results, finished=False)


def newest_finished_run(results: Path) -> Path:
    """Like `newest_run`, among finished runs only."""
    return _newest(results, finished=True)


def _newest(results: Path, *, finished: bool) -> Path:
    found: list[tuple[datetime, str, Path]] = []
    for path in results.iterdir() if results.is_dir() else ():
        try:
            info = json.loads((path / "run.json").read_text("utf-8"))
            created = datetime.fromisoformat(info["created"])
            status = info["status"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # no run, or a damaged one: asking for it by name says what is wrong with it
        if created.tzinfo is None:
            created = created.replace(tzinfo=UTC)
        if not finished or status == "finished":
            found.append((created, path.name, path))
    if not found:
        kind = "finished run" if finished else "run"
        raise RunError(
            f"no {kind} under {results}; make one with `python -m distributed_fmlp.tune`, "
            "or say where runs are with --results"
        )
    return max(found)[2]


def choose(trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """The trial to deploy: its best epoch has the highest validation accuracy.

    Ties: lower validation loss, then the earlier epoch, then the order given. Only finished trials
    count, and test figures have no say. None when no trial has finished.
    """
    candidates = [
        (-best.val_accuracy, best.val_loss, best.epoch, position)
        for position, trial in enumerate(trials)
        if trial.status == "finished" and (best := best_epoch(trial.epochs)) is not None
    ]
    return trials[min(candidates)[3]] if candidates else None


# Checking

_STRING, _INTEGER, _NUMBER = "a text", "a whole number", "a number"


def _damaged(path: Path, what: str) -> RunError:
    what = " ".join(what.split())
    return RunError(f"{path} is damaged ({what}); restore it, or resume or repeat the run")


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise RunError(f"{path} can't be read: {reason}; check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise _damaged(path, "not a JSON object")
    return value


def _is(value: Any, kind: str) -> bool:
    if kind == _STRING:
        return isinstance(value, str)
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (kind == _NUMBER and isinstance(value, float))


def _need(path: Path, value: Mapping[str, Any], where: str, **kinds: str) -> None:
    for key, kind in kinds.items():
        name = f"{where}{key}"
        if key not in value:
            raise _damaged(path, f"`{name}` is missing")
        if not _is(value[key], kind):
            raise _damaged(path, f"`{name}` is not {kind}")


def _need_list(path: Path, value: Mapping[str, Any], where: str, key: str, kind: str) -> None:
    items = value.get(key)
    if not isinstance(items, list) or not all(_is(item, kind) for item in items):
        raise _damaged(path, f"`{where}{key}` is not a list, each item {kind}")


def _checked_info(path: Path) -> dict[str, Any]:
    info = _read_object(path)
    if "format_version" not in info or "trials" not in info:
        raise RunError(f"{path.parent} is no run of this project: its run.json is something else's")
    _need(path, info, "", format_version=_INTEGER)
    if info["format_version"] != FORMAT_VERSION:
        raise RunError(
            f"{path} has format {info['format_version']}, and this version reads "
            f"{FORMAT_VERSION}; use the version of distributed_fmlp that wrote it"
        )
    _need(path, info, "", name=_STRING, created=_STRING, status=_STRING)
    if info["status"] not in RUN_STATUSES:
        raise _damaged(path, f"`status` is none of {', '.join(RUN_STATUSES)}")
    for key in ("options", "dataset", "architecture"):
        if not isinstance(info.get(key), dict):
            raise _damaged(path, f"`{key}` is not an object")
    _need(path, info["dataset"], "dataset.", name=_STRING, sha256=_STRING)
    if not isinstance(info["dataset"].get("substituted"), bool):
        raise _damaged(path, "`dataset.substituted` is neither true nor false")
    _need_list(path, info["dataset"], "dataset.", "class_names", _STRING)
    _need(path, info["architecture"], "architecture.", input=_INTEGER, output=_INTEGER)
    _need_list(path, info["architecture"], "architecture.", "hidden", _INTEGER)
    _need_list(path, info["architecture"], "architecture.", "dropout", _NUMBER)
    _check_trial_list(path, info["trials"])
    return info


def _check_trial_list(path: Path, entries: Any) -> None:
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise _damaged(path, "`trials` is not a list of objects")
    for position, entry in enumerate(entries):
        where = f"trials[{position}]."
        _need(path, entry, where, trial_id=_STRING, learning_rate=_NUMBER, seed=_INTEGER)
        drawn = entry.get("hyperparameters", {})
        if not isinstance(drawn, dict) or not all(
            name.isidentifier() and _is(each, _NUMBER) for name, each in drawn.items()
        ):
            raise _damaged(path, f"`{where}hyperparameters` are not numbers by name")
        name = entry["trial_id"]
        # The name becomes a directory: it must not lead out of the run.
        if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise _damaged(path, f"`{where}trial_id` can't be a directory's name")
    if len({entry["trial_id"] for entry in entries}) != len(entries):
        raise _damaged(path, "`trials` names a trial twice")


def _load_trial(run_path: Path, entry: Mapping[str, Any], n_classes: int) -> TrialRecord:
    path = trial_directory(run_path, entry["trial_id"]) / "trial.json"
    if not path.exists():
        return TrialRecord(
            entry["trial_id"],
            entry["learning_rate"],
            entry["seed"],
            hyperparameters=entry.get("hyperparameters", {}),
        )
    value = _read_object(path)
    _need(path, value, "", trial_id=_STRING, learning_rate=_NUMBER, seed=_INTEGER, status=_STRING)
    for key in ("trial_id", "learning_rate", "seed", "hyperparameters"):
        if value.get(key, {}) != entry.get(key, {}):
            raise _damaged(path, f"its `{key}` is not the one in run.json")
    if value["status"] not in TRIAL_STATUSES:
        raise _damaged(path, f"`status` is none of {', '.join(TRIAL_STATUSES)}")
    epochs = value.get("epochs") or []
    if not isinstance(epochs, list):
        raise _damaged(path, "`epochs` is not a list")
    value["epochs"] = [
        _checked_epoch(path, row, f"epochs[{position}]") for position, row in enumerate(epochs)
    ]
    for key in ("test_best", "test_last"):
        if value.get(key) is not None:
            value[key] = _checked_test(path, value[key], key, n_classes)
    try:
        return TrialRecord.from_json(value)
    except TypeError as error:
        raise _damaged(path, str(error)) from error


def _revived(value: Any) -> Any:
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value


def _checked_epoch(path: Path, row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise _damaged(path, f"`{where}` is not an object")
    revived = {key: _revived(item) for key, item in row.items()}
    names = (item.name for item in fields(EpochRecord))
    kinds = {name: _INTEGER if name == "epoch" else _NUMBER for name in names}
    _need(path, revived, f"{where}.", **kinds)
    return revived


def _checked_test(path: Path, value: Any, where: str, n_classes: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _damaged(path, f"`{where}` is not an object")
    test = {key: item if isinstance(item, list) else _revived(item) for key, item in value.items()}
    _need(path, test, f"{where}.", epoch=_INTEGER, loss=_NUMBER, accuracy=_NUMBER, f1=_NUMBER)
    matrix = test.get("confusion_matrix")
    if not isinstance(matrix, list) or len(matrix) != n_classes:
        raise _damaged(path, f"`{where}.confusion_matrix` doesn't have one row per class")
    for row in matrix:
        if not isinstance(row, list) or len(row) != n_classes:
            raise _damaged(path, f"`{where}.confusion_matrix` is not square")
        if not all(_is(item, _INTEGER) and item >= 0 for item in row):
            raise _damaged(path, f"`{where}.confusion_matrix` has something that is no count")
    per_class = (item.name for item in fields(TestRecord) if item.name.endswith("_per_class"))
    for key in per_class:
        _need_list(path, test, f"{where}.", key, _NUMBER)
        if len(test[key]) != len(matrix):
            raise _damaged(path, f"`{where}.{key}` doesn't have one figure per class")
    return test
