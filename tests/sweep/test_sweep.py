"""A whole sweep with real Ray on small data: all that it leaves, also when a trial fails."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import sklearn.metrics

from distributed_fmlp.bundle import load_bundle
from distributed_fmlp.records import TrialRecord, best_epoch
from distributed_fmlp.run_directory import choose, load_predictions, load_run
from tests.sweep.conftest import EPOCH_LINE, RECIPE, ROOT, Desk, Reference
from tests.sweep.plain_training import plain_weights

EPOCHS = 10
IDS = [f"lr_{lr}_seed_{seed}" for seed in (0, 1) for lr in (0.001, 0.01)]


def tree(path: Path) -> dict[str, tuple[str, int]]:
    """Every file below a directory: the SHA-256 of its bytes, and when it was last written."""
    return {
        str(file.relative_to(path)): (
            hashlib.sha256(file.read_bytes()).hexdigest(),
            file.stat().st_mtime_ns,
        )
        for file in path.rglob("*")
        if file.is_file()
    }


def read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def words_of(process: psutil.Process) -> list[str]:
    """The command of a process; none once it has ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


# --- what a run leaves


def test_a_sweep_ends_well_and_leaves_nothing_but_its_run(reference: Reference) -> None:
    assert reference.finished.status == 0, reference.finished
    assert reference.finished.err == ""
    assert [each.name for each in reference.desk.cwd.iterdir()] == ["results"]
    assert [each.name for each in reference.desk.results.iterdir()] == ["reference"]
    assert list(reference.desk.home.iterdir()) == []
    left = reference.desk.wait_until_empty()
    assert [process.cmdline() for process in left] == []


def test_ray_listens_on_loopback_alone(reference: Reference) -> None:
    assert reference.listening
    assert set(reference.listening) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


def test_ray_starts_no_process_that_a_sweep_has_no_use_for(reference: Reference) -> None:
    assert any("gcs_server" in command for command in reference.commands)
    assert sum("ray::ImplicitFunc" in command for command in reference.commands) >= 1
    for unused in ("monitor.py", "log_monitor.py", "dashboard.py"):
        assert not any(f"/{unused}" in command.split(" --")[0] for command in reference.commands)
    workers = list(reference.desk.ray.rglob("logs/worker-*.out"))
    assert len(workers) == len(IDS)  # each trial's, and none that waits for work


def test_the_run_directory_holds_what_its_description_lists(reference: Reference) -> None:
    names = {each.name for each in reference.run.iterdir()}
    table = re.findall(r"^\| (`.+`) \| ", (ROOT / "docs" / "run-directory.md").read_text(), re.M)
    first = table[: table.index("`.lock`") + 1]
    described = {name.split("/")[0] for row in first for name in re.findall(r"`(.+?)`", row)}
    assert {"run.json", "tune", "trials", "summary.md", "plots", "bundle", "logs"} <= described
    assert names == described - {"report.json"}  # there once a report was told about images
    assert {each.name for each in (reference.run / "trials").iterdir()} == set(IDS)
    for trial in IDS:
        assert {each.name for each in (reference.run / "trials" / trial).iterdir()} == {
            "trial.json",
            "epochs.csv",
            "test_predictions.npz",
        }
    plots = {each.name: each.read_bytes() for each in (reference.run / "plots").iterdir()}
    for kind in ("loss", "accuracy", "f1", "confusion_matrix"):
        for lr in ("0.001", "0.01"):
            assert f"{kind}_Arch_256x64_lr_{lr}.png" in plots
    assert all(content.startswith(b"\x89PNG\r\n") for content in plots.values())
    hidden = [each.name for each in reference.run.rglob(".*") if each.name.endswith(".tmp")]
    assert hidden == []


def test_run_json_says_what_was_asked_and_where_it_ran(reference: Reference) -> None:
    info = read_json(reference.run / "run.json")
    assert info["format_version"] == 1
    assert info["name"] == "reference"
    assert info["status"] == "finished"
    assert info["created"] <= info["finished"]
    assert shlex.split(info["command"])[:3] == ["python", "-m", "distributed_fmlp.tune"]
    assert "--hidden 256 64" in info["command"]
    assert info["options"]["lr"] == [0.001, 0.01]
    assert info["options"]["seed"] == [0, 1]
    assert info["options"]["val_fraction"] == 0.2
    assert info["dataset"]["name"] == "digits"
    assert info["dataset"]["substituted"] is False
    assert info["dataset"]["n_train"] + info["dataset"]["n_validation"] == 1438
    assert info["dataset"]["n_test"] == 359
    assert info["split"]["fraction"] == 0.2
    assert 0 < info["scaling"]["mean"] < 1
    assert info["architecture"] == {
        "input": 784,
        "hidden": [256, 64],
        "output": 10,
        "dropout": [0.3, 0.3],
    }
    assert info["resources"]["max_concurrent"] <= psutil.cpu_count()
    assert [entry["trial_id"] for entry in info["trials"]] == IDS
    assert set(info["source"]) == {"commit", "dirty"}
    assert {"python", "ray", "torch"} <= set(info["versions"])
    assert info["machine"]["cpus"] == psutil.cpu_count()
    assert [attempt["outcome"] for attempt in info["attempts"]] == ["finished"]
    assert info["attempts"][0]["started"] <= info["attempts"][0]["ended"]
    assert info["seconds"] > 1


def test_each_trial_has_every_epoch_once_and_chooses_on_validation(reference: Reference) -> None:
    for trial in load_run(reference.run).trials:
        assert trial.status == "finished"
        assert [row.epoch for row in trial.epochs] == list(range(1, EPOCHS + 1))
        best = best_epoch(trial.epochs)
        assert best is not None
        assert trial.best_epoch == best.epoch
        assert trial.test_best is not None
        assert trial.test_last is not None
        assert (trial.test_best.epoch, trial.test_last.epoch) == (best.epoch, EPOCHS)
        assert best.val_accuracy > 0.9
        assert trial.resources["threads"] >= 1
        assert trial.resources["device"] == "cpu"
        table = (reference.run / "trials" / trial.trial_id / "epochs.csv").read_text()
        rows = list(csv.DictReader(table.splitlines()))
        assert [int(row["epoch"]) for row in rows] == list(range(1, EPOCHS + 1))
        for row, record in zip(rows, trial.epochs, strict=True):
            assert float(row["val_loss"]) == pytest.approx(record.val_loss, rel=1e-5)
            assert float(row["train_accuracy_percent"]) == pytest.approx(
                100 * record.train_accuracy, rel=1e-5
            )


def test_the_test_figures_are_those_of_the_saved_predictions(reference: Reference) -> None:
    for trial in load_run(reference.run).trials:
        predictions = load_predictions(reference.run, trial.trial_id)
        assert predictions is not None
        for predicted, record in (
            (predictions.predicted, trial.test_best),
            (predictions.predicted_last, trial.test_last),
        ):
            assert record is not None
            assert record.accuracy == np.mean(predicted == predictions.label)
            assert record.f1 == pytest.approx(
                sklearn.metrics.f1_score(predictions.label, predicted, average="macro")
            )
            assert np.array(record.confusion_matrix).sum() == len(predictions.label)


def test_the_bundle_is_the_chosen_trials_chosen_epoch(reference: Reference) -> None:
    run = load_run(reference.run)
    chosen = choose(run.trials)
    assert chosen is not None
    assert chosen.test_best is not None
    bundle = load_bundle(reference.run / "bundle")
    manifest = bundle.manifest
    assert bundle.sha256 == chosen.weights_sha256
    assert manifest["trial_id"] == chosen.trial_id
    assert (manifest["seed"], manifest["epoch"]) == (chosen.seed, chosen.best_epoch)
    assert manifest["run"] == "reference"
    for key in ("architecture", "scaling", "source", "versions"):
        assert manifest[key] == run.info[key]
    assert manifest["class_names"] == run.info["dataset"]["class_names"]
    assert manifest["dataset"]["sha256"] == run.info["dataset"]["sha256"]
    assert manifest["hyperparameters"]["learning_rate"] == chosen.learning_rate
    assert manifest["metrics"]["test_accuracy"] == chosen.test_best.accuracy
    best = best_epoch(chosen.epochs)
    assert best is not None
    assert manifest["metrics"]["val_accuracy"] == best.val_accuracy
    assert max(row.val_accuracy for each in run.trials for row in each.epochs) == best.val_accuracy


def test_tune_leaves_its_own_logs_and_one_checkpoint_of_each_trial(reference: Reference) -> None:
    attempt = reference.run / "tune" / "attempt_0"
    for trial in IDS:
        names = {each.name for each in (attempt / trial).iterdir()}
        assert {"progress.csv", "result.json"} <= names
        assert any(name.startswith("events.out.tfevents") for name in names)
        assert len([name for name in names if name.startswith("checkpoint_")]) == 1
        rows = list(csv.DictReader((attempt / trial / "progress.csv").read_text().splitlines()))
        assert [int(row["epoch"]) for row in rows] == list(range(1, EPOCHS + 1))
    assert [each.name for each in (reference.run / "tune").iterdir()] == ["attempt_0"]


def test_without_a_terminal_there_is_one_line_per_trial_and_epoch_and_no_noise(
    reference: Reference,
) -> None:
    lines = reference.finished.out.splitlines()
    told = [found for found in map(EPOCH_LINE.match, lines) if found]
    seen = [(found["lr"], found["seed"], int(found["epoch"])) for found in told]
    assert len(seen) == len(set(seen)) == 4 * EPOCHS
    assert all(int(found["of"]) == EPOCHS for found in told)
    for noise in ("(pid=", "INFO", "WARNING", "Warning", "raylet", "Traceback", "\x1b["):
        assert noise not in reference.finished.out


def test_what_is_said_at_the_end_names_the_chosen_trial_the_places_and_the_next_commands(
    reference: Reference,
) -> None:
    out = reference.finished.out
    chosen = choose(load_run(reference.run).trials)
    assert chosen is not None
    assert f"{chosen.trial_id} is chosen" in out
    for words in (
        "results/reference/bundle",
        "results/reference/plots",
        " -m distributed_fmlp.serve results/reference",
        " -m distributed_fmlp.report results/reference",
        "tensorboard --logdir",
    ):
        assert words in out
    logs = re.search(r"^Ray's logs (\S+) and (\S+)$", out, re.MULTILINE)
    assert logs
    assert (reference.desk.cwd / logs[1]).is_file()
    assert Path(logs[2]).is_dir()


def test_a_sweeps_trials_are_bit_for_bit_those_of_plain_training(reference: Reference) -> None:
    """So what holds of trials without Ray, as that those of one seed are paired, holds here."""
    run = load_run(reference.run)
    for trial in run.trials[:2]:
        wanted = [trial.weights_sha256, trial.last_weights_sha256]
        assert plain_weights(trial.learning_rate, trial.seed) == wanted
    assert len({trial.last_weights_sha256 for trial in run.trials}) == 4


# --- resuming a run that has finished


def test_resuming_a_finished_run_changes_no_byte_and_says_so(reference: Reference) -> None:
    before = tree(reference.run)
    done = reference.desk.run("--resume", "reference")
    assert done.status == 0
    assert done.err == ""
    assert "finished: there is nothing to resume" in done.out
    assert tree(reference.run) == before
    assert list(reference.desk.home.iterdir()) == []


def test_resuming_a_finished_run_needs_no_write_access(desk: Desk, reference: Reference) -> None:
    run = desk.results / "reference"
    desk.results.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(desk.results)]).returncode:
        pytest.skip("mounting takes root on Linux")
    try:
        shutil.copytree(reference.run, run)
        (run / ".lock").unlink(missing_ok=True)
        subprocess.run(["mount", "-o", "remount,ro", str(desk.results)], check=True)
        done = desk.run("--resume", "reference")
        assert (done.status, done.err) == (0, ""), done
        assert "finished: there is nothing to resume" in done.out
        assert not (run / ".lock").exists()
        refused = desk.run("--resume", "reference", "--epochs", "11")
        assert refused.status == 2 and "contradicts the run" in refused.err
    finally:
        subprocess.run(["umount", "--lazy", str(desk.results)], check=True)


def test_resuming_with_an_option_that_contradicts_the_run_is_refused_by_name(
    reference: Reference,
) -> None:
    before = tree(reference.run)
    done = reference.desk.run("--resume", "reference", "--epochs", "11")
    assert done.status == 2
    assert done.err.count("\n") == 1
    assert "--epochs 11 contradicts the run reference" in done.err
    assert tree(reference.run) == before


# --- trials that fail


def trial_of(run: Path, trial_id: str) -> TrialRecord:
    return next(trial for trial in load_run(run).trials if trial.trial_id == trial_id)


def test_a_trial_whose_loss_is_no_number_ends_at_once_and_the_others_finish(desk: Desk) -> None:
    recipe = shlex.split("--dataset digits --hidden 32 --epochs 3 --lr 1e30 --lr 0.01 --name d")
    done = desk.run(*recipe)
    assert done.status == 1, done
    assert done.err == ""
    run = desk.results / "d"
    assert read_json(run / "run.json")["status"] == "failed"
    bad, good = trial_of(run, "lr_1e+30_seed_0"), trial_of(run, "lr_0.01_seed_0")
    assert bad.status == "failed"
    assert re.match(
        r"diverged: the training loss became \w+ in epoch 1, step \d+", bad.reason or ""
    )
    assert bad.epochs == []
    assert bad.reason in done.out
    assert "restarts" not in done.out  # the same numbers would come out again
    assert good.status == "finished"
    assert len(good.epochs) == 3
    assert load_bundle(run / "bundle").sha256 == good.weights_sha256
    summary = (run / "summary.md").read_text()
    assert "1e+30" in summary
    assert "diverged" in summary
    again = desk.run("--resume", "d")
    assert again.status == 1
    assert "nothing to resume" in again.out


def test_a_trial_that_fails_for_good_loses_nothing_and_resume_completes_it(
    desk: Desk, reference: Reference
) -> None:
    command = desk.start(*RECIPE, "--max-failures", "0", "--name", "f")
    command.wait_for_epoch(3, lr=0.01)
    run = desk.results / "f"
    victim = read_json(run / "trials" / "lr_0.01_seed_0" / "trial.json")["resources"]["process"]
    assert psutil.pid_exists(victim)
    psutil.Process(victim).kill()
    done = command.finish()
    assert done.status == 1, done
    assert done.err == ""
    failed, other = trial_of(run, "lr_0.01_seed_0"), trial_of(run, "lr_0.001_seed_0")
    assert (failed.status, other.status) == ("failed", "finished")
    assert "worker process has died" in (failed.reason or "")
    assert "\n" not in (failed.reason or "")
    assert len(failed.epochs) >= 3
    assert f"lr 0.01 seed 0  failed for good: {failed.reason}" in done.out
    assert "worker process has died" in (run / "summary.md").read_text()
    assert load_bundle(run / "bundle").sha256 == other.weights_sha256
    assert read_json(run / "run.json")["status"] == "failed"

    again = next(line for line in done.out.splitlines() if line.startswith("Try again"))
    words = shlex.split(again.removeprefix("Try again"))
    resumed = desk.start_words(words).finish()
    assert resumed.status == 0, resumed
    whole = trial_of(reference.run, "lr_0.01_seed_0")
    mended = trial_of(run, "lr_0.01_seed_0")
    assert mended.reason is None
    assert mended.last_weights_sha256 == whole.last_weights_sha256
    assert mended.weights_sha256 == whole.weights_sha256
    assert [row.epoch for row in mended.epochs] == list(range(1, EPOCHS + 1))
    assert trial_of(run, "lr_0.001_seed_0") == other
    assert read_json(run / "run.json")["status"] == "finished"


# --- the terminal's user


def test_ctrl_c_before_the_first_epoch_leaves_nothing_and_says_so_in_one_line(desk: Desk) -> None:
    command = desk.start(*RECIPE, "--name", "early")
    while not any("gcs_server" in word for each in desk.processes() for word in words_of(each)):
        assert command.process.poll() is None
        time.sleep(0.02)  # until Ray is being started: options and data are known to be good
    command.kill(signal.SIGINT)
    done = command.finish()
    assert done.status == 130
    assert done.err.splitlines() == ["Stopped before the first epoch; nothing is kept"]
    assert list(desk.cwd.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_sweep_whose_output_can_not_be_written_ends_well_all_the_same(desk: Desk) -> None:
    recipe = shlex.split("--dataset digits --hidden 32 --epochs 2 --lr 0.01 --name untold")
    words = [sys.executable, "-m", "distributed_fmlp.tune", *recipe]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            words, cwd=desk.cwd, env=desk.environment(), stdout=full, stderr=subprocess.PIPE,
            text=True, timeout=120,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert read_json(desk.results / "untold" / "run.json")["status"] == "finished"


def test_quiet_says_the_result_alone_and_needs_no_home(desk: Desk) -> None:
    recipe = shlex.split("--dataset digits --hidden 32 --epochs 2 --lr 0.01 --quiet --name q")
    home = desk.path / "no home"
    home.write_text("a file")
    words = ("--storage", "apart", "--precision", "bf16")
    done = desk.run(*recipe, *words, HOME=str(home))
    assert (done.status, done.err) == (0, ""), done
    assert not any(EPOCH_LINE.match(line) for line in done.out.splitlines())
    assert "lr_0.01_seed_0 is chosen" in done.out
    assert home.read_text() == "a file"
    assert not (desk.results / "q" / "tune").exists()
    assert (desk.cwd / "apart" / "q" / "attempt_0" / "lr_0.01_seed_0").is_dir()


@pytest.mark.real_data
@pytest.mark.slow
def test_one_epoch_of_the_published_recipe_on_fashion_mnist(desk: Desk, data_dir: Path) -> None:
    recipe = ["--dataset", "fashion-mnist", "--lr", "0.001", "--epochs", "1", "--name", "real"]
    # Threads that other tests keep from their CPU wait for one another.
    done = desk.run(*recipe, "--cpus-per-trial", "1", FMLP_DATA_DIR=str(data_dir))
    assert done.status == 0, done
    (trial,) = load_run(desk.results / "real").trials
    assert trial.epochs[0].val_accuracy > 0.82
    assert trial.test_best is not None
    assert trial.test_best.accuracy > 0.82
    info = read_json(desk.results / "real" / "run.json")
    assert (info["dataset"]["n_train"], info["dataset"]["n_validation"]) == (48000, 12000)
    assert (desk.results / "real" / "plots" / "loss_Arch2_lr_0.001.png").is_file()
    assert load_bundle(desk.results / "real" / "bundle").sha256 == trial.weights_sha256


@pytest.mark.slow
def test_where_fashion_mnist_can_not_be_had_auto_trains_on_digits_and_says_so_everywhere(
    desk: Desk,
) -> None:
    nowhere = "http://127.0.0.1:9"
    finished = desk.run(
        *shlex.split("--epochs 2 --hidden 16 --lr 0.005 --lr 0.001"),
        XDG_CACHE_HOME=str(desk.path / "cache"),
        http_proxy=nowhere,
        https_proxy=nowhere,
    )
    assert finished.status == 0, finished.err
    [run] = [path for path in desk.results.iterdir() if (path / "run.json").exists()]
    assert run.name.startswith("digits")
    # At the start, at the end, in every table; and nothing published beside other data.
    banner = "digits took the place of fashion-mnist, which could not be had"
    before, _, after = finished.out.partition("epoch  1/2")
    for part in (before, after):
        assert banner in part
    for name in ("summary.md", "report.html"):
        text = (run / name).read_text("utf-8")
        assert banner in text, name
        assert "90.47" not in text
    assert "90.47" not in finished.out
    info = json.loads((run / "run.json").read_text("utf-8"))
    assert info["dataset"]["name"] == "digits" and info["dataset"]["substituted"] is True
    manifest = json.loads((run / "bundle" / "manifest.json").read_text("utf-8"))
    assert manifest["dataset"]["substituted"] is True
