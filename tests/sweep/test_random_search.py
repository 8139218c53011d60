"""A random search through the real command: stopped early, killed, resumed, told of as it was."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from distributed_fmlp.bundle import load_bundle
from distributed_fmlp.report.summary import summarize
from distributed_fmlp.run_directory import Run, choose, load_predictions, load_run
from tests.sweep.conftest import Desk, clear_desk, make_desk

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

EPOCHS = 9
# Such bad learning rates are among these that some trial is stopped for certain.
SEARCH = shlex.split(
    "--dataset digits --hidden 128 --batch-size 8 --epochs 9 --schedule cosine --search random "
    "--samples 6 --space lr=0.000001:0.01 --space dropout=0.1:0.4 --space label-smoothing=0:0.2"
)


def settled(run: Run) -> dict[str, Any]:
    return {
        trial.trial_id: (trial.status, trial.epochs, trial.reason)
        for trial in run.trials
        if trial.status in ("finished", "stopped")
    }


def check_ends(run: Run) -> None:
    """Each trial has finished and is tested, or was stopped early and is not."""
    for trial in run.trials:
        if trial.status == "finished":
            assert len(trial.epochs) == EPOCHS
            assert trial.test_best is not None
        else:
            assert trial.status == "stopped"
            assert 0 < len(trial.epochs) < EPOCHS
            assert (trial.reason or "").startswith(f"stopped early after {len(trial.epochs)} of")
            assert trial.test_best is None
            assert load_predictions(run.path, trial.trial_id) is None


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """Where a search named s was killed half-way, and a copy of it named copy."""
    desk = make_desk(tmp_path_factory.mktemp("search"))
    command = desk.start(*SEARCH, "--name", "s")
    command.wait_for(lambda line: "stopped early after" in line)
    desk.kill_everything()
    command.finish()
    shutil.copytree(desk.results / "s", desk.results / "copy")
    yield desk
    clear_desk(desk)


def test_a_search_killed_half_way_goes_on_with_its_trials_and_retrains_none_that_has_ended(
    killed: Desk,
) -> None:
    path = killed.results / "s"
    before = load_run(path)
    ended = settled(before)
    assert "stopped" in {status for status, _, _ in ended.values()}
    drawn = [(trial.trial_id, dict(trial.hyperparameters)) for trial in before.trials]

    done = killed.run("--resume", "s")
    assert (done.status, done.err) == (0, ""), done
    run = load_run(path)
    assert run.info["status"] == "finished"
    assert [(trial.trial_id, dict(trial.hyperparameters)) for trial in run.trials] == drawn
    check_ends(run)
    for trial_id, (status, epochs, reason) in settled(before).items():
        after = next(trial for trial in run.trials if trial.trial_id == trial_id)
        if status == "stopped":
            assert (after.status, after.epochs, after.reason) == (status, epochs, reason)
            assert not list((path / "tune" / "attempt_1").glob(trial_id))

    chosen = choose(run.trials)
    assert chosen is not None and chosen.status == "finished"
    manifest = load_bundle(path / "bundle").manifest
    assert manifest["trial_id"] == chosen.trial_id
    given = manifest["hyperparameters"]
    assert given["schedule"] == "cosine"
    assert given["label_smoothing"] == chosen.hyperparameters["label_smoothing"]
    assert given["dropout"] == [chosen.hyperparameters["dropout"]]
    assert manifest["architecture"]["dropout"] == given["dropout"]

    summary = summarize(run)
    n_stopped = sum(trial.status == "stopped" for trial in run.trials)
    assert summary.state is None
    assert summary.search is not None
    assert f"{6 - n_stopped} finished, {n_stopped} stopped early." in summary.search
    assert "it is not tested and can't be chosen" in done.out
    assert {row.trial_id for row in summary.rows if row.status == "stopped"} == {
        trial.trial_id for trial in run.trials if trial.status == "stopped"
    }
    assert all(row.test_accuracy_percent is None for row in summary.rows if row.status == "stopped")
    again = killed.run("--resume", "s")
    assert again.status == 0 and "nothing to resume" in again.out


def test_ctrl_c_during_a_search_leaves_its_running_trials_to_go_on(desk: Desk) -> None:
    command = desk.start(*SEARCH, "--name", "c")
    command.wait_for_epoch(2)
    command.kill(2)
    stopped = command.finish()
    assert (stopped.status, stopped.err) == (130, "")
    run = load_run(desk.results / "c")
    assert run.info["status"] == "stopped"
    assert [trial.status for trial in run.trials].count("running") >= 1
    for trial in run.trials:  # none is taken for one that the search has stopped
        assert (trial.status == "stopped") == ("stopped early" in (trial.reason or ""))


def test_a_recorded_search_whose_trials_were_changed_is_refused(killed: Desk) -> None:
    file = killed.results / "copy" / "run.json"
    info = json.loads(file.read_text())
    info["trials"].pop()
    file.write_text(json.dumps(info))
    done = killed.run("--resume", "copy")
    assert done.status == 2
    assert "contradict each other" in done.err and done.err.count("\n") == 1
