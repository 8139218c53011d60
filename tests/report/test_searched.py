"""A search's report: trials that differ in several hyperparameters, some of them stopped early."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_run import make_run

from distributed_fmlp.errors import RunError
from distributed_fmlp.report import build_report, render_summary
from distributed_fmlp.report.run_facts import run_facts
from distributed_fmlp.report.summary import summarize
from distributed_fmlp.run_directory import Run, load_run, save_trial, write_json

DRAWN = {
    0.0021: {"dropout": 0.21, "label_smoothing": 0.05},
    0.0007: {"dropout": 0.38, "label_smoothing": 0.15},
    0.0043: {"dropout": 0.11, "label_smoothing": 0.01},
}


def make_search(path: Path) -> Run:
    """Two finished trials, and one that was stopped early though it was the most accurate."""
    make_run(path, rates=tuple(DRAWN), epochs=9)
    info = json.loads((path / "run.json").read_text())
    for entry in info["trials"]:
        entry["hyperparameters"] = DRAWN[entry["learning_rate"]]
    info["search"] = {
        "kind": "random",
        "ranges": {"lr": [0.0003, 0.005], "dropout": [0.1, 0.5], "label_smoothing": [0.0, 0.2]},
    }
    info["options"] |= {"epochs": 9, "search": "random", "samples": 3, "space": []}
    for trial in load_run(path).trials:
        drawn = replace(trial, hyperparameters=DRAWN[trial.learning_rate])
        if trial.learning_rate == 0.0043:
            rows = [replace(row, val_accuracy=0.99) for row in trial.epochs[:3]]
            drawn = replace(
                drawn,
                status="stopped",
                reason="stopped early after 3 of 9 epochs: others were more accurate",
                epochs=rows,
                best_epoch=1,
                test_best=None,
                test_last=None,
            )
            (path / "trials" / trial.trial_id / "test_predictions.npz").unlink()
        save_trial(path, drawn)
    write_json(path / "run.json", info)
    return load_run(path)


def test_a_search_says_what_was_searched_what_became_of_it_and_what_its_names_mean(
    tmp_path: Path,
) -> None:
    summary = summarize(make_search(tmp_path / "run"))
    assert summary.search == (
        "A random search of 3 trials (lr 0.0003 to 0.005, dropout 0.1 to 0.5, label smoothing 0.0 "
        "to 0.2): 2 finished, 1 stopped early. Trials are named by their learning rate, but differ "
        "in dropout and label smoothing too. A trial is stopped early when others have been more "
        "accurate on validation by the same epoch; it is not tested and can't be chosen."
    )
    assert summary.state is None  # nothing is missing of it
    assert summary.failures == []
    assert summary.not_beside is not None
    assert "several hyperparameters searched at random" in summary.not_beside


def test_a_trial_that_was_stopped_early_is_not_chosen_however_accurate_and_this_is_said(
    tmp_path: Path,
) -> None:
    summary = summarize(make_search(tmp_path / "run"))
    assert summary.chosen_trial in ("lr_0.0021_seed_0", "lr_0.0007_seed_0")
    assert "(more accurate, but stopped early: lr_0.0043_seed_0)" in summary.chosen_because
    [stopped] = [row for row in summary.rows if row.status == "stopped"]
    assert (stopped.trial_id, stopped.last_epoch) == ("lr_0.0043_seed_0", 3)
    assert stopped.test_accuracy_percent is None
    assert len(summary.rates) == 2 and len(summary.pairs) == 1
    best = DRAWN[next(row.figures.learning_rate for row in summary.rates if row.best_on_validation)]
    words = f"(dropout {best['dropout']}, label smoothing {best['label_smoothing']})"
    assert words in summary.answer[0]


def test_tables_page_and_plots_show_what_each_trial_was_given(tmp_path: Path) -> None:
    run = make_search(tmp_path / "run")
    summary = build_report(run)
    text = render_summary(summary)
    assert "dropout 0.21, label smoothing 0.05" in text and "stopped" in text
    page = (run.path / "report.html").read_text()
    assert "dropout 0.38, label smoothing 0.15" in page
    assert "stopped early after 3 of 9 epochs" in page
    assert "1 stopped early" in page
    with (run.path / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["hyperparameters"] == "dropout 0.21, label smoothing 0.05"
    assert (run.path / "plots" / "loss_Arch2_lr_0.0043.png").is_file()
    assert not (run.path / "plots" / "confusion_matrix_Arch2_lr_0.0043.png").exists()
    facts = dict(run_facts(run))
    assert facts["Run"][1] == "finished; 2 of 3 trials finished, 1 stopped early"
    assert facts["Network"] == ["784-1024-512-256-128-10, dropout searched"]


def test_a_grid_says_nothing_of_a_search(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "run", epochs=3))
    summary = summarize(run)
    assert summary.search is None
    assert all(row.hyperparameters == "" for row in summary.rows)
    assert "Search" not in dict(run_facts(run))


@pytest.mark.parametrize("drawn", [[0.1], {"dropout": "0.1"}, {"a b": 0.1}, {"dropout": None}])
def test_damaged_hyperparameters_are_refused_by_name(tmp_path: Path, drawn: object) -> None:
    path = make_run(tmp_path / "run", epochs=3)
    info = json.loads((path / "run.json").read_text())
    info["trials"][0]["hyperparameters"] = drawn
    write_json(path / "run.json", info)
    with pytest.raises(RunError, match=r"trials\[0\]\.hyperparameters"):
        load_run(path)


def test_hyperparameters_that_are_not_those_of_run_json_are_refused(tmp_path: Path) -> None:
    run = make_search(tmp_path / "run")
    save_trial(run.path, replace(run.trials[0], hyperparameters={"dropout": 0.3}))
    with pytest.raises(RunError, match="`hyperparameters` is not the one"):
        load_run(run.path)
