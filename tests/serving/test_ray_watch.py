"""What happens to a service whose Ray ends under it, or doesn't end when it should."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.serving.conftest import Bundles
from tests.serving.running_service import Command, environment, free_port, gone

# A stand-in for Ray: the parts that have ended are those that the script says.
WATCHED = """
import subprocess, sys, threading, time
from pathlib import Path
from types import SimpleNamespace
from ray._private import worker
from distributed_fmlp.serving import ray_watch
directory, case = Path(sys.argv[1]), sys.argv[2]
ended = []
worker._global_node = SimpleNamespace(dead_processes=lambda: ended)
ray_watch._CLOSING_SECONDS = 0.5
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
stop = threading.Event()
with ray_watch.RayWatch(directory, stop) as watch:
    watch.begin()
    ended.append(("log_monitor", None))  # nothing that the service needs
    time.sleep(1)
    if case == "stopping":
        stop.set()
    if case in ("stopping", "lost"):
        ended.append(("raylet", None))
        time.sleep(600)
    watch.closing()
    ended.append(("raylet", None))
    if case == "stuck":
        time.sleep(600)
worker._global_node = None  # or Ray's own end, at exit, would look for it
print("ended by itself")
"""


@pytest.mark.parametrize(
    ("case", "status", "said"),
    [
        ("stopping", 0, "Stopped at once: Ray's processes have ended"),
        ("lost", 1, "error: Ray's processes have ended"),
        ("stuck", 0, "Stopped at once: Ray doesn't end by itself"),
    ],
)
def test_the_service_ends_with_ray_and_leaves_nothing(
    tmp_path: Path, case: str, status: int, said: str
) -> None:
    done = watched(tmp_path, case)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith(said) and done.stderr.count("\n") == 1
    assert not (tmp_path / "files").exists()


def test_a_ray_that_ends_when_it_is_told_to_is_left_alone(tmp_path: Path) -> None:
    done = watched(tmp_path, "closed")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended by itself\n", "")
    assert (tmp_path / "files").exists()


def watched(tmp_path: Path, case: str) -> subprocess.CompletedProcess[str]:
    """The script's end; its output is whole only when its child, which has it too, has ended."""
    directory = tmp_path / "files"
    directory.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", WATCHED, str(directory), case],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        if case != "closed":
            out, err = process.communicate(timeout=60)
        process.wait(60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if case == "closed":
        out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess([], process.returncode, out, err)


def test_a_signal_to_all_its_processes_ends_a_service_soon_and_leaves_nothing(
    bundles: Bundles, tmp_path: Path
) -> None:
    """As `systemd` and `timeout` send SIGTERM, and a terminal that is closed SIGHUP."""
    with tempfile.TemporaryDirectory(prefix="d-", dir="/tmp") as temporary:
        env = environment(tmp_path / "home", TMPDIR=temporary)
        words = [sys.executable, "-m", "distributed_fmlp.serve", str(bundles.first)]
        command = Command([*words, "--port", str(free_port())], tmp_path, env)
        try:
            command.wait_for("Ctrl-C stops it")
            family = command.family()
            began = time.monotonic()
            os.killpg(command.process.pid, signal.SIGHUP)
            assert command.finish(60) == 0, command.said
            assert gone(family) == []
            # Ray gives up on its own processes after a minute.
            assert time.monotonic() - began < 45
        finally:
            command.destroy()
        assert "Traceback" not in command.said and "Stopped" in command.said
        assert os.listdir(temporary) == []
    assert not (tmp_path / "home").exists()
