"""Bad input: one line that says what, why and what to do, status 2, and nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distributed_fmlp.download import ARCHIVES, FOLDER
from distributed_fmlp.errors import ClusterError, UserError
from distributed_fmlp.options import parse
from distributed_fmlp.ray_session import ray_session
from distributed_fmlp.sweep.run import run_sweep
from tests.sweep.conftest import Desk, Reference

QUICK = shlex.split("--dataset digits --hidden 32 --epochs 1 --lr 0.01")


def listing(path: Path) -> dict[str, bytes | None]:
    """Everything below a directory, files with their bytes."""
    return {
        str(each.relative_to(path)): each.read_bytes() if each.is_file() else None
        for each in path.rglob("*")
    }


def refused(desk: Desk, *words: str, **environment: str) -> str:
    """The one line with which a command is refused, which leaves everything as it was."""
    before = listing(desk.path)
    done = desk.run(*words, **environment)
    assert done.status == 2, done
    assert done.err.startswith("error: "), done
    assert done.err.count("\n") == 1, done
    assert "Traceback" not in done.out
    assert listing(desk.path) == before
    return done.err


# --- options: each value is checked in test_options.py; here, that the command says so


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--lr 0", "--lr"),
        ("--epochs 0", "--epochs"),
        ("--batch-size 0", "--batch-size"),
        ("--dropout 1", "--dropout"),
        ("--dataset mnist", "--dataset"),
        ("--name ../escape", "--name"),
        ("--resume ../escape", "../escape: no such run"),
    ],
)
def test_a_bad_option_is_refused(desk: Desk, words: str, named: str) -> None:
    assert named in refused(desk, *shlex.split(words))


def test_a_validation_fraction_that_leaves_a_class_empty_is_refused(desk: Desk) -> None:
    for fraction, side in (("0.001", "validation"), ("0.999", "training")):
        line = refused(desk, *QUICK, "--val-fraction", fraction)
        assert f"no {side} image" in line
        assert fraction in line


def test_more_cpus_per_trial_than_any_node_has_is_refused(desk: Desk) -> None:
    line = refused(desk, *QUICK, "--cpus-per-trial", "4096", "--storage", "apart/there")
    assert "--cpus-per-trial 4096: the largest node has" in line


# --- data


def broken_data(desk: Desk, damage: Callable[[Path], None]) -> str:
    """A data directory with files under the right names that are not the right files."""
    folder = desk.path / "data" / FOLDER
    folder.mkdir(parents=True)
    for archive in ARCHIVES.values():
        (folder / archive.name).write_bytes(b"\x1f\x8b" + bytes(64))
    damage(folder)
    return str(desk.path / "data")


@pytest.mark.parametrize("dataset", ["fashion-mnist", "auto"])
def test_a_corrupt_data_file_is_named(desk: Desk, dataset: str) -> None:
    directory = broken_data(desk, lambda folder: None)
    line = refused(desk, "--dataset", dataset, "--data-dir", directory)
    assert "train-images-idx3-ubyte.gz is truncated" in line
    assert "delete it" in line


NO_NETWORK = {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}


def test_missing_data_that_can_not_be_downloaded_is_refused_when_it_is_asked_for(
    desk: Desk,
) -> None:
    cache = desk.path / "cache"
    lock = cache / "distributed_fmlp" / FOLDER / ".download.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()  # where others may be waiting it can't be taken away again
    words = ("--dataset", "fashion-mnist")
    line = refused(desk, *words, XDG_CACHE_HOME=str(cache), **NO_NETWORK)
    assert "FashionMNIST is not on disk" in line
    assert "--data-dir" in line


def test_an_unwritable_home_is_named_when_data_must_be_downloaded_there(desk: Desk) -> None:
    file = desk.path / "no home"
    file.write_text("a file")
    line = refused(desk, "--dataset", "fashion-mnist", HOME=str(file), **NO_NETWORK)
    assert "no home" in line
    assert "--data-dir" in line


# --- places


def test_a_name_that_exists_is_refused_and_so_is_a_file_of_that_name(
    desk: Desk, reference: Reference
) -> None:
    line = refused(reference.desk, *QUICK, "--name", "reference")
    assert "run reference exists" in line
    assert "--resume reference" in line
    desk.results.mkdir()
    (desk.results / "taken").write_text("mine")
    assert "taken" in refused(desk, *QUICK, "--name", "taken")


def test_results_below_a_file_are_refused(desk: Desk) -> None:
    (desk.cwd / "results").write_text("a file")
    line = refused(desk, *QUICK)
    assert "can't be written (Not a directory)" in line
    assert "--results" in line


def test_results_with_too_long_a_path_are_refused(desk: Desk) -> None:
    line = refused(desk, *QUICK, "--results", "deep/" + "x" * 300, "--name", "n")
    assert "File name too long" in line


def test_a_storage_below_a_file_is_refused(desk: Desk) -> None:
    (desk.cwd / "file").write_text("")
    line = refused(desk, *QUICK, "--storage", "file/there")
    assert "--storage" in line
    assert "file/there" in line


@contextlib.contextmanager
def read_only(path: Path) -> Iterator[None]:
    path.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(path)]
    if sys.platform != "linux" or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("mounting takes root on Linux")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_results_and_storage_that_are_read_only_are_refused(desk: Desk) -> None:
    with read_only(desk.path / "fixed"):
        for option in ("--results", "--storage"):
            line = refused(desk, *QUICK, option, str(desk.path / "fixed"))
            assert "Read-only file system" in line
            assert option in line


def test_places_closed_to_the_user_are_refused(desk: Desk) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    (desk.path / "closed").mkdir(mode=0)
    try:
        for option in ("--results", "--storage"):
            done = desk.run(*QUICK, "--name", "n", option, str(desk.path / "closed" / "in"))
            assert (done.status, done.err.count("\n")) == (2, 1), done
            assert "Permission denied" in done.err
    finally:
        (desk.path / "closed").chmod(0o700)


def test_a_storage_that_holds_another_run_of_the_same_name_is_refused(desk: Desk) -> None:
    attempt = desk.cwd / "apart" / "n" / "attempt_0" / "lr_0.01_seed_0" / "checkpoint_000000"
    attempt.mkdir(parents=True)
    line = refused(desk, *QUICK, "--name", "n", "--storage", "apart")
    assert "the checkpoints of another run" in line


# --- Ray


def test_an_address_where_nothing_answers_is_refused(desk: Desk) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, but nobody listens
        address = f"127.0.0.1:{held.getsockname()[1]}"
        line = refused(desk, *QUICK, "--address", address)
    assert f"no Ray answers at {address}" in line


NO_ADDRESSES = (
    *("nonsense", "local", "127.0.0.1:", ":6379", "ray://h:1", "http://h:1", "h:1 ", "h:99999"),
    "127.0.0.1:\N{SUPERSCRIPT TWO}",
)


@pytest.mark.parametrize("address", NO_ADDRESSES)
def test_an_address_that_is_none_is_refused_before_ray_is_asked(address: str) -> None:
    with pytest.raises(ClusterError) as caught, ray_session(address):
        pytest.fail("there is no such Ray")
    assert address in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("127.0.0.1:1", "no Ray answers at 127.0.0.1:1"),
        ("nonsense", "RAY_ADDRESS 'nonsense' is not an address"),
        ("ray://h:1", "RAY_ADDRESS ray://h:1 is a Ray Client's"),
    ],
)
def test_the_address_that_auto_stands_for_is_checked_like_one_that_is_given(
    address: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ClusterError) as caught, ray_session("auto"):
        pytest.fail("there is no such Ray")
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


def alone() -> list[str]:
    """What to say before a command so that it sees no process but its own; nothing if forbidden."""
    words = ["unshare", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    with contextlib.suppress(OSError):
        if subprocess.run([*words, "true"], capture_output=True).returncode == 0:
            return words
    return []


def test_the_running_cluster_is_refused_where_none_runs(desk: Desk) -> None:
    # Ray looks for one among all processes, and would try for 40 s to join another test's.
    words = [*alone(), sys.executable, "-m", "distributed_fmlp.tune", *QUICK, "--address", "auto"]
    before = listing(desk.path)
    done = desk.start_words(words).finish()
    assert (done.status, done.err.count("\n")) == (2, 1), done
    assert done.err.startswith("error: Ray can't be reached at auto")
    assert listing(desk.path) == before


# --- runs to resume


def test_what_is_no_run_can_not_be_resumed(desk: Desk) -> None:
    assert "no such run" in refused(desk, "--resume", "missing")
    (desk.results / "empty").mkdir(parents=True)
    assert "is no run" in refused(desk, "--resume", "empty")
    (desk.results / "other").mkdir()
    (desk.results / "other" / "run.json").write_text('{"name": "a program of yours"}')
    assert "is no run of this project" in refused(desk, "--resume", "other")


def put(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(info: dict[str, Any]) -> None:
        target: Any = info
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value

    return change


DAMAGE: dict[str, Callable[[dict[str, Any]], None]] = {
    "no options": put("options", value={}),
    "options of another kind": put("options", value=[]),
    "no epochs": lambda info: info["options"].pop("epochs"),
    "epochs as text": put("options", "epochs", value="ten"),
    "a learning rate below 0": put("options", "lr", value=[-1, 0.01]),
    "fewer learning rates": put("options", "lr", value=[0.001]),
    "another trial": put("trials", 0, "learning_rate", value=0.5),
    "no trials": put("trials", value=[]),
    "another architecture": put("architecture", "hidden", value=[256, 65]),
    "no split": lambda info: info.pop("split"),
    "another fraction": put("split", "fraction", value=0.3),
    "no scaling": lambda info: info.pop("scaling"),
    "scaling of another kind": put("scaling", "mean", value="bright"),
    "no run_id": lambda info: info.pop("run_id"),
    "no attempts": lambda info: info.pop("attempts"),
    "attempts of another kind": put("attempts", value=[3]),
    "no seconds": lambda info: info.pop("seconds"),
    "no versions": lambda info: info.pop("versions"),
    "resources of another kind": put("resources", value=3),
    "a trial that leads elsewhere": put("trials", 0, "trial_id", value="../../x"),
    "no status": put("status", value="sleeping"),
    "a newer format": put("format_version", value=2),
}


@pytest.fixture(scope="module")
def stopped_run(reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that can be resumed: the reference, said to have been stopped before its trials."""
    copy = tmp_path_factory.mktemp("stopped") / "run"
    shutil.copytree(reference.run, copy)
    shutil.rmtree(copy / "trials")
    info = json.loads((copy / "run.json").read_text())
    info |= {"status": "stopped", "name": "run"}
    info["options"]["name"] = "run"
    (copy / "run.json").write_text(json.dumps(info))
    return copy


@pytest.mark.parametrize("what", DAMAGE)
def test_a_run_whose_run_json_was_damaged_is_not_resumed(
    what: str, stopped_run: Path, tmp_path: Path
) -> None:
    """In this process, as a command of its own for each would take minutes."""
    shutil.copytree(stopped_run, tmp_path / "run")
    file = tmp_path / "run" / "run.json"
    info = json.loads(file.read_text())
    DAMAGE[what](info)
    file.write_text(json.dumps(info))
    before, handler = listing(tmp_path), signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(UserError) as caught:
            run_sweep(parse(["--resume", "run", "--results", str(tmp_path)]))
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert str(file) in str(caught.value) or str(file.parent) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert listing(tmp_path) == before


def test_a_run_json_that_was_cut_short_is_named_by_the_command(
    desk: Desk, stopped_run: Path
) -> None:
    shutil.copytree(stopped_run, desk.results / "run")
    file = desk.results / "run" / "run.json"
    file.write_text(file.read_text()[:-40])
    assert "run.json is damaged" in refused(desk, "--resume", "run")


def test_a_run_whose_checkpoints_are_all_gone_is_not_trained_again_without_a_word(
    desk: Desk, reference: Reference
) -> None:
    run = desk.results / "run"
    shutil.copytree(reference.run, run)
    shutil.rmtree(run / "tune")
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**info, "name": "run", "status": "stopped"}))
    trial = run / "trials" / "lr_0.01_seed_1" / "trial.json"
    trial.write_text(json.dumps({**json.loads(trial.read_text()), "status": "running"}))
    line = refused(desk, "--resume", "run")
    assert f"the checkpoints of run run are gone from {run / 'tune'}" in line
    assert "mounted" in line


def test_a_run_with_other_data_than_it_was_started_with_is_refused(
    desk: Desk, stopped_run: Path
) -> None:
    shutil.copytree(stopped_run, desk.results / "run")
    file = desk.results / "run" / "run.json"
    info = json.loads(file.read_text())
    info["dataset"]["sha256"] = "0" * 64
    file.write_text(json.dumps(info))
    assert "was started with another digits" in refused(desk, "--resume", "run")


def test_a_run_that_another_process_runs_is_neither_resumed_nor_begun_again(
    reference: Reference,
) -> None:
    resumed, begun = reference.meanwhile
    for done in (resumed, begun):
        assert (done.status, done.err.count("\n")) == (2, 1), done
    assert "run reference is being run by another process" in resumed.err
    assert "run reference exists" in begun.err
