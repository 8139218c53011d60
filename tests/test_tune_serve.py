"""`python -m distributed_fmlp.tune --serve`: from the options to a prediction in one command."""

from __future__ import annotations

import re
import shlex
import signal
import socket
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.serving.running_service import (
    Command,
    Connection,
    Service,
    environment,
    free_port,
    gone,
    make_bundle,
)
from tests.synthetic_run import make_run

# The README's commands; the first is given what makes it long enough to be stopped.
AGAIN = "python -m distributed_fmlp.tune --dataset digits --epochs 3 --name again --serve"
STATUS = "python -m distributed_fmlp.serve status"
PROMOTE = "python -m distributed_fmlp.serve promote again"
ROLLBACK = "python -m distributed_fmlp.serve rollback"
LONGER = "--epochs 6 --hidden 256 64 --batch-size 8 --lr 0.01 --cpus-per-trial 1 --quiet"


def command(tmp_path: Path, words: str, port: int) -> Command:
    given = [*shlex.split(AGAIN)[1:], *shlex.split(words), "--port", str(port)]
    return command_of_words(tmp_path, [sys.executable, *given])


def command_of_words(tmp_path: Path, words: list[str]) -> Command:
    (tmp_path / "work").mkdir(exist_ok=True)
    (tmp_path / "home").mkdir(exist_ok=True)
    return Command(words, tmp_path / "work", environment(tmp_path / "home"))


def stopped_after_an_epoch(tmp_path: Path, port: int) -> list[str]:
    """The words of the command that a sweep prints when Ctrl-C has stopped it."""
    tuning = command(tmp_path, LONGER, port)
    log = tmp_path / "work" / "results" / "again" / "trials" / "lr_0.01_seed_0" / "epochs.csv"
    try:
        until = time.monotonic() + 120
        while not log.exists() and time.monotonic() < until:
            time.sleep(0.1)
        tuning.process.send_signal(signal.SIGINT)
        assert tuning.finish(90) == 130, tuning.said
    finally:
        tuning.destroy()
    found = re.search(r"^ +(\S+ -m distributed_fmlp\.tune --resume .+)$", tuning.said, re.MULTILINE)
    assert found is not None, tuning.said
    return shlex.split(found[1])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sweep_that_was_stopped_goes_on_as_it_says_and_then_serves_the_model_it_chose(
    tmp_path: Path,
) -> None:
    port = free_port()
    words = stopped_after_an_epoch(tmp_path, port)
    assert words[3:] == ["--resume", "again", "--quiet", "--serve", "--port", str(port)]
    tuning = command_of_words(tmp_path, words)
    try:
        tuning.wait_for("Ctrl-C stops it")
        family = tuning.family()
        bundle = tmp_path / "work" / "results" / "again" / "bundle"
        assert (bundle / "manifest.json").is_file()
        assert "Serve it" in tuning.said and f"Serving at http://127.0.0.1:{port}" in tuning.said
        with Connection(port) as connection:
            reply = connection.predict(np.zeros((1, 784), np.uint8))
            assert reply.status == 200 and reply.json["model"]["run"] == "again"
        work, env = tmp_path / "work", environment(tmp_path / "home")
        check_commands(Service(tuning, port, work, env))
        tuning.process.send_signal(signal.SIGINT)
        assert tuning.finish(90) == 0
        assert gone(family) == []
    finally:
        tuning.destroy()


def check_commands(service: Service) -> None:
    """What the README says to a running service, beside another run whose model can be had."""
    other = make_run(service.cwd / "results" / "other", rates=(0.001,), images=20)
    make_bundle(other / "bundle", seed=1, steps=30)
    any_accuracy = ("--allowed-accuracy-drop", "100")

    def said(line: str, *more: str) -> str:
        done = service.cli(*shlex.split(line)[3:], *more)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[0]

    first = service.version
    assert first in said(STATUS)
    said("python -m distributed_fmlp.serve promote other", *any_accuracy)
    second = service.version
    assert second != first
    assert first in said(PROMOTE, *any_accuracy) and service.version == first
    assert second in said(ROLLBACK) and service.version == second


def test_a_port_in_use_is_found_before_anything_is_trained(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        tuning = command(tmp_path, LONGER, listener.getsockname()[1])
        assert tuning.finish(60) == 2
    assert tuning.said.startswith("error: can't listen on") and tuning.said.count("\n") == 1
    assert not (tmp_path / "work" / "results").exists()
