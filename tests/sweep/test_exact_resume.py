"""Whatever kills a sweep, and how often: resumed, it ends with the bits of one never stopped."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from distributed_fmlp.bundle import load_bundle
from distributed_fmlp.recipe import Recipe
from distributed_fmlp.run_directory import choose, load_run
from tests.sweep.conftest import EPOCH_LINE, RECIPE, Command, Desk, Finished, clear_desk, make_desk
from tests.sweep.plain_training import plain_weights

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

EPOCHS = 10
TRIALS = ("lr_0.001_seed_0", "lr_0.01_seed_0")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The run of a sweep that nothing stopped."""
    desk = make_desk(tmp_path_factory.mktemp("uninterrupted"))
    finish_well(start(desk, "--name", "reference"))
    yield desk.results / "reference"
    clear_desk(desk)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def measured(run: Path, trial_id: str) -> dict[str, Any]:
    """All that a trial measured, without times, places and process ids."""
    told = read_json(run / "trials" / trial_id / "trial.json")
    del told["resources"]
    for row in told["epochs"]:
        del row["seconds"], row["images_per_second"]
    return dict(told)


def assert_same_bits(run: Path, uninterrupted: Path) -> None:
    """The run has finished, and measured to the last bit what the uninterrupted one did."""
    assert read_json(run / "run.json")["status"] == "finished"
    for trial_id in TRIALS:
        ours, theirs = run / "trials" / trial_id, uninterrupted / "trials" / trial_id
        told, expected = measured(run, trial_id), measured(uninterrupted, trial_id)
        assert [row["epoch"] for row in told["epochs"]] == list(range(1, EPOCHS + 1))
        assert told["weights_sha256"] == expected["weights_sha256"]
        assert told["last_weights_sha256"] == expected["last_weights_sha256"]
        assert told == expected
        for name in ("epochs.csv", "test_predictions.npz"):
            assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
        kept = list((run / "tune").glob(f"attempt_*/{trial_id}/checkpoint_*"))
        assert len(kept) <= 1
    chosen = choose(load_run(run).trials)
    assert chosen is not None
    assert load_bundle(run / "bundle").sha256 == chosen.weights_sha256
    assert_no_scratch(run)


def assert_no_scratch(run: Path) -> None:
    """What killed processes were about to check in has been cleared away."""
    run_id = read_json(run / "run.json")["run_id"]
    assert not (Path("/tmp") / f"fmlp-{run_id}").exists()


def assert_no_line_twice(finished: Finished) -> None:
    seen = [found.groups() for found in map(EPOCH_LINE.match, finished.out.splitlines()) if found]
    assert len(seen) == len(set(seen))


def outcomes(run: Path) -> list[str]:
    return [attempt["outcome"] for attempt in read_json(run / "run.json")["attempts"]]


def trial_process(run: Path, trial_id: str) -> psutil.Process:
    told = read_json(run / "trials" / trial_id / "trial.json")
    return psutil.Process(told["resources"]["process"])


def start(desk: Desk, *words: str) -> Command:
    return desk.start(*RECIPE, *words)


def finish_well(command: Command) -> Finished:
    done = command.finish()
    assert (done.status, done.err) == (0, ""), done
    assert_no_line_twice(done)
    return done


def test_a_trial_then_the_driver_then_the_whole_process_tree_are_killed(
    desk: Desk, uninterrupted: Path
) -> None:
    command = start(desk, "--name", "b")
    run = desk.results / "b"
    command.wait_for_epoch(2, lr=0.01)
    first = trial_process(run, "lr_0.01_seed_0")
    first.kill()
    command.wait_for(lambda line: re.match(r"lr 0.01 seed 0  failed \(.*died.*restarts", line))
    command.wait_for_epoch(4, lr=0.01)  # by itself
    assert trial_process(run, "lr_0.01_seed_0").pid != first.pid
    command.kill()
    killed = command.finish()
    assert killed.status == -signal.SIGKILL
    assert_no_line_twice(killed)

    # At once: what is left of the first attempt may still be running.
    command = desk.start("--resume", "b")
    command.wait_for_epoch(7, lr=0.01)
    desk.kill_everything()  # driver, gcs, raylet, workers
    command.finish()

    finish_well(desk.start("--resume", "b"))
    assert outcomes(run) == ["killed", "killed", "finished"]
    assert_same_bits(run, uninterrupted)


def printed_command(finished: Finished) -> list[str]:
    lines = finished.out.splitlines()
    place = next(i for i, line in enumerate(lines) if re.match(r"Stopped; \d+ of 20 epochs", line))
    words = shlex.split(lines[place + 1])
    assert words[1:3] == ["-m", "distributed_fmlp.tune"]
    return words


def test_ctrl_c_and_sigterm_stop_cleanly_and_the_printed_command_goes_on(
    desk: Desk, uninterrupted: Path
) -> None:
    place = desk.cwd / "other results"
    command = start(desk, "--name", "d", "--results", str(place))
    command.wait_for_epoch(3)
    os.killpg(command.process.pid, signal.SIGINT)  # as a terminal does: to everything in front
    stopped = command.finish()
    assert (stopped.status, stopped.err) == (130, "")
    assert desk.wait_until_empty() == []
    assert read_json(place / "d" / "run.json")["status"] == "stopped"
    assert_no_scratch(place / "d")
    kept = [len(trial.epochs) for trial in load_run(place / "d").trials]
    assert f"Stopped; {sum(kept)} of 20 epochs are kept" in stopped.out

    command = desk.start_words(printed_command(stopped))
    command.wait_for_epoch(max(kept) + 1)
    command.kill(signal.SIGTERM)
    stopped = command.finish()
    assert (stopped.status, stopped.err) == (130, "")
    assert desk.wait_until_empty() == []

    # The newest checkpoint of one trial is damaged by hand: an older one, or none, will do.
    found = sorted(
        (place / "d" / "tune").glob("attempt_*/lr_0.01_seed_0/checkpoint_*/state.safetensors"),
        key=lambda file: read_json(file.with_name("state.json"))["epoch"],
    )
    with found[-1].open("r+b") as file:
        file.truncate(found[-1].stat().st_size // 2)

    done = desk.start_words(printed_command(stopped)).finish()
    assert done.status == 0, done
    note = r"note: checkpoints are gone from .+: lr_0.01_seed_0 \(from epoch \d+\)\n"
    assert re.fullmatch(note, done.err), done  # and of no other trial
    assert_no_line_twice(done)
    assert outcomes(place / "d") == ["stopped", "stopped", "finished"]
    assert_same_bits(place / "d", uninterrupted)


def test_kills_at_random_moments_lose_nothing(desk: Desk, uninterrupted: Path) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)  # shown when the test fails
    draw = random.Random(seed)
    run = desk.results / "g"
    command = start(desk, "--name", "g")
    command.wait_for_epoch(1)
    for _ in range(3):
        time.sleep(draw.uniform(0, 6))
        if draw.random() < 0.5:
            command.kill()
        else:
            desk.kill_everything()
        command.finish()
        command = desk.start("--resume", "g")
        if draw.random() < 0.5:
            with contextlib.suppress(AssertionError):  # it may have nothing left to tell
                command.wait_for_epoch(draw.randint(1, EPOCHS))
    finish_well(command)
    assert_same_bits(run, uninterrupted)


def test_another_recipe_killed_half_way_ends_with_the_bits_of_a_trial_without_ray(
    desk: Desk,
) -> None:
    recipe = shlex.split("--schedule cosine --label-smoothing 0.1 --weight-decay 0.05")
    words = [*RECIPE[: RECIPE.index("--lr")], "--lr", "0.01", "--cpus-per-trial", "1", *recipe]
    command = desk.start(*words, "--name", "f")
    command.wait_for_epoch(3)
    desk.kill_everything()
    command.finish()
    finish_well(desk.start("--resume", "f"))
    told = read_json(desk.results / "f" / "trials" / "lr_0.01_seed_0" / "trial.json")
    added = Recipe(schedule="cosine", label_smoothing=0.1, weight_decay=0.05)
    wanted = [told["weights_sha256"], told["last_weights_sha256"]]
    assert plain_weights(0.01, 0, added) == wanted
    manifest = read_json(desk.results / "f" / "bundle" / "manifest.json")
    assert manifest["hyperparameters"]["optimizer"] == "AdamW"
    assert added.to_json().items() <= manifest["hyperparameters"].items()
    assert "Not the published recipe: a cosine learning-rate" in "".join(command.lines)


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    path.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    if sys.platform != "linux" or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("mounting a small disk takes root on Linux")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill_up(desk: Desk, *words: str) -> Finished:
    done = start(desk, "--name", "e", "--max-failures", "1", *words).finish()
    assert "No space left" in done.out + done.err
    assert "Traceback" not in done.out + done.err
    assert desk.wait_until_empty() == []
    return done


def test_a_storage_that_fills_up_fails_the_trials_and_keeps_what_they_measured(
    desk: Desk, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "8m"):
        done = fill_up(desk, "--storage", str(tmp_path / "disk"))
        assert (done.status, done.err) == (1, ""), done
        run = load_run(desk.results / "e")
        assert run.info["status"] == "failed"
        assert any("No space left" in (trial.reason or "") for trial in run.trials)
        assert "No space left" in (run.path / "summary.md").read_text()


def test_a_results_directory_that_fills_up_loses_nothing(
    desk: Desk, uninterrupted: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "8m"):
        results = tmp_path / "disk" / "results"
        done = fill_up(desk, "--results", str(results))
        assert done.status in (1, 2), done
        assert done.err.count("\n") == (done.status == 2)
        assert done.status == 1 or "--resume e" in done.err, done.err
        subprocess.run(["mount", "-o", "remount,size=200m", str(tmp_path / "disk")], check=True)
        finish_well(desk.start("--resume", "e", "--results", str(results)))
        assert_same_bits(results / "e", uninterrupted)
