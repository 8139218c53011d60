"""The runs that are committed: their reports come again from their recorded numbers."""

from __future__ import annotations

import csv
import json
import re
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distributed_fmlp.bundle import load_bundle, weights_sha256
from distributed_fmlp.records import TrialRecord
from distributed_fmlp.report.__main__ import main
from distributed_fmlp.run_directory import Run, choose, load_predictions, load_run

RESULTS = Path(__file__).resolve().parents[2] / "results"
COMMITTED = [RESULTS / "reference", RESULTS / "improved"]
PUBLISHED_BEST = 0.9047  # the best of the published table's single runs
MOST_BYTES = 20 << 20

each_run = pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.name)


@pytest.fixture
def run(path: Path) -> Run:
    return load_run(path)


@each_run
def test_the_report_is_rebuilt_from_the_recorded_numbers(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rebuilt = tmp_path / path.name
    shutil.copytree(path, rebuilt)
    for name in ("summary.md", "summary.csv", "summary.json", "report.html"):
        (rebuilt / name).unlink()
    shutil.rmtree(rebuilt / "plots")
    assert main([str(rebuilt)]) == 0, capsys.readouterr().err
    assert "data:image/png" not in (rebuilt / "report.html").read_text("utf-8")
    for name in ("summary.md", "summary.csv", "summary.json"):
        assert (rebuilt / name).read_text("utf-8") == (path / name).read_text("utf-8"), name
    assert _tables(rebuilt / "report.html") == _tables(path / "report.html")
    drawn = {each.name for each in (rebuilt / "plots").iterdir()}
    assert drawn == {each.name for each in (path / "plots").iterdir()}


def _tables(page: Path) -> list[str]:
    found = re.findall(r"<table.*?</table>", page.read_text("utf-8"), re.DOTALL)
    assert found
    return found


@each_run
def test_the_recorded_figures_are_those_of_the_recorded_predictions(run: Run) -> None:
    assert run.trials
    for trial in run.trials:
        predictions = load_predictions(run.path, trial.trial_id)
        assert predictions is not None and trial.test_best and trial.test_last
        for record, predicted in (
            (trial.test_best, predictions.predicted),
            (trial.test_last, predictions.predicted_last),
        ):
            assert record.accuracy == pytest.approx(np.mean(predicted == predictions.label))
        assert [row.epoch for row in trial.epochs] == list(range(1, 26))
        chosen = max(trial.epochs, key=lambda row: (row.val_accuracy, -row.val_loss, -row.epoch))
        assert chosen.epoch == trial.best_epoch


@each_run
def test_the_summary_has_the_mean_over_the_seeds_of_the_trials(run: Run) -> None:
    seeds = {trial.seed for trial in run.trials}
    assert len(seeds) == 5
    summary = json.loads((run.path / "summary.json").read_text("utf-8"))
    text = (run.path / "summary.md").read_text("utf-8")
    assert summary
    for rate in {trial.learning_rate for trial in run.trials}:
        accuracies = [
            trial.test_best.accuracy
            for trial in run.trials
            if trial.learning_rate == rate and trial.test_best
        ]
        assert len(accuracies) == 5
        assert f"{100 * statistics.mean(accuracies):.2f}" in text


@each_run
def test_the_bundle_is_the_chosen_trials_and_whole(run: Run) -> None:
    bundle = load_bundle(run.path / "bundle")
    chosen = choose(run.trials)
    assert chosen is not None
    assert weights_sha256(bundle.weights) == chosen.weights_sha256
    assert bundle.manifest["trial_id"] == chosen.trial_id


@each_run
def test_no_image_of_the_data_set_and_nothing_large_is_committed(path: Path) -> None:
    files = [each for each in path.rglob("*") if each.is_file() and "tune" not in each.parts]
    assert sum(each.stat().st_size for each in files) < MOST_BYTES
    kinds = {each.suffix for each in files}
    assert kinds <= {".csv", ".json", ".md", ".html", ".png", ".npz", ".safetensors"}
    assert "data:image/png" not in (path / "report.html").read_text("utf-8")
    # Nor is one to come in when it is made again where the data is.
    assert json.loads((path / "report.json").read_text("utf-8")) == {"images": False}


@pytest.mark.parametrize(("path", "above"), [(COMMITTED[0], False), (COMMITTED[1], True)])
def test_only_the_improved_recipes_mean_is_above_the_published_best(
    path: Path, above: bool
) -> None:
    """Of the learning rate that validation chooses: the test set has no say in which it is."""
    trials = load_run(path).trials

    def mean(rate: float, figures: Callable[[TrialRecord], float]) -> float:
        return statistics.mean(figures(each) for each in trials if each.learning_rate == rate)

    rates = {trial.learning_rate for trial in trials}
    chosen = max(rates, key=lambda rate: mean(rate, best_validation))
    assert (mean(chosen, chosen_epochs_test) > PUBLISHED_BEST) is above


def best_validation(trial: TrialRecord) -> float:
    return max(row.val_accuracy for row in trial.epochs)


def chosen_epochs_test(trial: TrialRecord) -> float:
    assert trial.test_best
    return trial.test_best.accuracy


@each_run
def test_every_epochs_csv_is_the_record(run: Run) -> None:
    for trial in run.trials:
        with (run.path / "trials" / trial.trial_id / "epochs.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [int(row["epoch"]) for row in rows] == [row.epoch for row in trial.epochs]
