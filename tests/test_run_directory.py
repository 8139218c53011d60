"""The run directory: what is written reads back, and what is wrong is named in one line."""

from __future__ import annotations

import csv
import json
import math
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_run import make_epochs, make_info, make_predictions, make_run

from distributed_fmlp.errors import RunError
from distributed_fmlp.records import EpochRecord, TrialRecord
from distributed_fmlp.run_directory import (
    choose,
    load_predictions,
    load_run,
    newest_finished_run,
    newest_run,
    save_trial,
    write_bytes,
    write_json,
    write_text,
)


def one_line(raised: pytest.ExceptionInfo[RunError]) -> str:
    text = str(raised.value)
    assert "\n" not in text and text
    return text


def edit(path: Path, **changes: Any) -> None:
    write_json(path, {**json.loads(path.read_text()), **changes})


# Writing


def test_a_file_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "file.txt"
    write_text(path, "first, which is longer")
    write_text(path, "sécond")
    assert path.read_bytes() == "sécond".encode()
    assert [item.name for item in path.parent.iterdir()] == ["file.txt"]


def test_a_write_that_fails_keeps_the_old_file_and_removes_its_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["file.txt"]


def test_a_file_gets_the_permissions_the_umask_asks_for(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    write_bytes(tmp_path / "ours", b"")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("usual", "ours")}
    assert len(modes) == 1


def test_json_keeps_every_bit_of_a_float_and_stays_json_without_finite_numbers(
    tmp_path: Path,
) -> None:
    value = {
        "third": 1 / 3,
        "tiny": 5e-324,
        "numpy": [np.float32(0.1), np.int64(3), np.arange(2)],
        "odd": (math.nan, math.inf, -math.inf),
    }
    write_json(tmp_path / "x.json", value)

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    read = json.loads((tmp_path / "x.json").read_text(), parse_constant=refuse)
    assert read["third"] == 1 / 3
    assert read["tiny"] == 5e-324
    assert read["numpy"] == [float(np.float32(0.1)), 3, [0, 1]]
    assert read["odd"] == ["NaN", "Infinity", "-Infinity"]


def test_a_trial_reads_back_equal_and_writes_the_same_bytes_again(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "a", rates=(0.001,), seeds=(0, 1)))
    for trial in run.trials:
        predictions = load_predictions(run.path, trial.trial_id)
        assert predictions is not None
        save_trial(tmp_path / "b", trial, predictions)
        for name in ("trial.json", "epochs.csv", "test_predictions.npz"):
            inside = Path("trials") / trial.trial_id / name
            assert (run.path / inside).read_bytes() == (tmp_path / "b" / inside).read_bytes()
        assert TrialRecord.from_json(json.loads(json.dumps(trial.to_json()))) == trial


def test_epochs_csv_has_the_published_columns_in_percent_with_six_digits(tmp_path: Path) -> None:
    row = EpochRecord(1, 0.57391234, 0.796812345, 0.7945, 0.3818, 0.8560, 0.8561, 9.0, 5000.0)
    save_trial(tmp_path, TrialRecord("t", 0.005, 0, epochs=[row]))
    with (tmp_path / "trials/t/epochs.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    published = "train_loss train_accuracy_percent train_f1 val_loss val_accuracy_percent val_f1"
    assert header == ["epoch", *published.split()]
    assert rows == [["1", "0.573912", "79.6812", "0.7945", "0.3818", "85.6", "0.8561"]]


def test_a_loss_that_became_nan_survives_the_trip(tmp_path: Path) -> None:
    rows = make_epochs(2, np.random.default_rng(0))
    rows[1] = replace(rows[1], train_loss=math.nan, val_loss=math.inf)
    trial = TrialRecord("t", 0.5, 0, status="failed", reason="the loss became NaN", epochs=rows)
    save_trial(tmp_path, trial)
    write_json(tmp_path / "run.json", make_info([trial]))
    [read] = load_run(tmp_path).trials
    assert math.isnan(read.epochs[1].train_loss)
    assert read.epochs[1].val_loss == math.inf
    assert read.epochs[0] == rows[0]


# Reading


def test_predictions_read_back_with_their_types(tmp_path: Path) -> None:
    wanted = make_predictions(np.random.default_rng(3), 50)
    save_trial(tmp_path, TrialRecord("t", 0.1, 0), wanted)
    read = load_predictions(tmp_path, "t")
    assert read is not None
    for name, kind in (("label", "u1"), ("predicted", "u1"), ("predicted_last", "u1")):
        assert getattr(read, name).dtype == kind
        np.testing.assert_array_equal(getattr(read, name), getattr(wanted, name))
    assert read.confidence.dtype == np.float32
    np.testing.assert_array_equal(read.confidence, wanted.confidence)


def test_a_trial_without_predictions_has_none(tmp_path: Path) -> None:
    save_trial(tmp_path, TrialRecord("t", 0.1, 0))
    assert load_predictions(tmp_path, "t") is None


@pytest.mark.parametrize("keep", [0, 10, 400])
def test_cut_off_predictions_are_named(tmp_path: Path, keep: int) -> None:
    save_trial(tmp_path, TrialRecord("t", 0.1, 0), make_predictions(np.random.default_rng(0)))
    path = tmp_path / "trials/t/test_predictions.npz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RunError) as raised:
        load_predictions(tmp_path, "t")
    assert str(path) in one_line(raised)


def test_predictions_that_need_pickle_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "trials/t/test_predictions.npz"
    path.parent.mkdir(parents=True)
    objects = np.array([{}], dtype=object)
    np.savez(path, label=objects, predicted=objects, predicted_last=objects, confidence=objects)
    with pytest.raises(RunError) as raised:
        load_predictions(tmp_path, "t")
    assert str(path) in one_line(raised)


def test_a_trial_that_has_not_started_is_pending(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", status="running", finished=None)
    (path / "trials/lr_0.001_seed_0/trial.json").unlink()
    trials = {trial.trial_id: trial for trial in load_run(path).trials}
    assert len(trials) == 4
    pending = trials["lr_0.001_seed_0"]
    assert (pending.status, pending.learning_rate, pending.seed) == ("pending", 0.001, 0)
    assert not pending.epochs


def test_a_directory_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(RunError) as raised:
        load_run(tmp_path / "absent")
    assert "absent" in one_line(raised) and "no such run directory" in str(raised.value)


def test_a_directory_without_run_json_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError) as raised:
        load_run(tmp_path)
    assert "is no run" in one_line(raised)


@pytest.mark.parametrize("text", ["", "{", '{"a": 1', "[1]", "\x00\xff", "[" * 100_000])
def test_a_damaged_run_json_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text, encoding="latin-1")
    with pytest.raises(RunError) as raised:
        load_run(tmp_path)
    assert "run.json is damaged" in one_line(raised)


def test_another_programs_run_json_is_foreign(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"name": "something else", "steps": 3})
    with pytest.raises(RunError) as raised:
        load_run(tmp_path)
    assert "no run of this project" in one_line(raised)


def test_a_newer_format_is_refused_by_number(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", rates=(0.001,), format_version=2)
    with pytest.raises(RunError) as raised:
        load_run(path)
    assert "format 2" in one_line(raised) and "reads 1" in str(raised.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format_version", "1"),
        ("name", None),
        ("status", "asleep"),
        ("created", 5),
        ("options", []),
        ("dataset", {"name": "fashion-mnist", "sha256": "", "substituted": 0, "class_names": []}),
        ("architecture", {"input": 784, "output": 10, "hidden": [True], "dropout": [0.3]}),
        ("architecture", {"input": 784, "output": 10, "hidden": [8], "dropout": "0.3"}),
        ("trials", {}),
        ("trials", [{"trial_id": "a", "learning_rate": "0.1", "seed": 0}]),
        ("trials", [{"trial_id": "../a", "learning_rate": 0.1, "seed": 0}]),
        ("trials", [{"trial_id": "a", "learning_rate": 0.1, "seed": 0}] * 2),
    ],
)
def test_a_wrong_value_in_run_json_is_named(tmp_path: Path, key: str, value: Any) -> None:
    path = make_run(tmp_path / "run", rates=(0.001,))
    edit(path / "run.json", **{key: value})
    with pytest.raises(RunError) as raised:
        load_run(path)
    assert key in one_line(raised) and "run.json" in str(raised.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "done"},
        {"seed": 7},
        {"epochs": 3},
        {"epochs": [{"epoch": 1}]},
        {"test_best": {"epoch": 1, "loss": 1.0, "accuracy": 1.0, "f1": 1.0}},
    ],
)
def test_a_damaged_trial_json_is_named(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = make_run(tmp_path / "run", rates=(0.001,))
    trial = path / "trials/lr_0.001_seed_0/trial.json"
    edit(trial, **changes)
    with pytest.raises(RunError) as raised:
        load_run(path)
    assert f"{trial} is damaged" in one_line(raised)


def test_a_truncated_trial_json_is_named(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", rates=(0.001,))
    trial = path / "trials/lr_0.001_seed_0/trial.json"
    trial.write_text(trial.read_text()[:-20])
    with pytest.raises(RunError) as raised:
        load_run(path)
    assert f"{trial} is damaged" in one_line(raised)


def test_the_newest_run_is_the_one_created_last_whatever_the_files_dates(tmp_path: Path) -> None:
    make_run(tmp_path / "new", rates=(0.1,), created="2026-11-20T12:00:00+00:00", status="running")
    # 12:30 two hours east of Greenwich is before 12:00 there.
    make_run(tmp_path / "old", rates=(0.1,), created="2026-11-20T12:30:00+02:00")
    (tmp_path / "not a run").mkdir()
    write_text(tmp_path / "damaged" / "run.json", "{")
    assert newest_run(tmp_path).name == "new"
    assert newest_finished_run(tmp_path).name == "old"


def test_no_run_at_all_is_said_with_the_place_looked_in(tmp_path: Path) -> None:
    for results in (tmp_path, tmp_path / "absent"):
        with pytest.raises(RunError) as raised:
            newest_run(results)
        assert str(results) in one_line(raised)
    make_run(tmp_path / "going", rates=(0.1,), status="running")
    with pytest.raises(RunError, match="finished"):
        newest_finished_run(tmp_path)


# Choosing


def trial(name: str, *scores: tuple[float, float], status: Any = "finished") -> TrialRecord:
    rows = [
        EpochRecord(n, 0.5, 0.8, 0.8, loss, accuracy, accuracy, 1.0, 1.0)
        for n, (accuracy, loss) in enumerate(scores, 1)
    ]
    return TrialRecord(name, 0.1, 0, status=status, epochs=rows)


@pytest.mark.parametrize(
    ("trials", "wanted"),
    [
        ([trial("a", (0.8, 0.1)), trial("b", (0.9, 0.9))], "b"),
        ([trial("a", (0.9, 0.3)), trial("b", (0.9, 0.2))], "b"),
        ([trial("a", (0.1, 1.0), (0.9, 0.2)), trial("b", (0.9, 0.2))], "b"),
        ([trial("a", (0.9, 0.2)), trial("b", (0.9, 0.2))], "a"),
        ([trial("a", (0.9, 0.2)), trial("b", (0.99, 0.1), status="running")], "a"),
        ([trial("a", (0.9, 0.2)), trial("b", (0.99, 0.1), status="failed")], "a"),
    ],
)
def test_the_best_validation_accuracy_is_chosen_then_loss_then_epoch_then_order(
    trials: list[TrialRecord], wanted: str
) -> None:
    chosen = choose(trials)
    assert chosen is not None and chosen.trial_id == wanted


def test_nothing_is_chosen_before_a_trial_has_finished() -> None:
    assert choose([]) is None
    assert choose([trial("a", (0.9, 0.2), status="running"), TrialRecord("b", 0.1, 0)]) is None


def test_test_figures_have_no_say_in_the_choice(tmp_path: Path) -> None:
    trials = load_run(make_run(tmp_path / "run")).trials
    chosen = choose(trials)
    assert chosen is not None
    flattered = [
        replace(t, test_best=replace(t.test_best, accuracy=1.0, loss=0.0))
        if t.trial_id != chosen.trial_id and t.test_best
        else replace(t, test_best=None)
        for t in trials
    ]
    again = choose(flattered)
    assert again is not None and again.trial_id == chosen.trial_id
