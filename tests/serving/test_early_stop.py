"""What a signal ends while the service starts."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

# A child, a grandchild, and one whose parent is gone: known by the directory in its command.
FAMILY = """
import subprocess, sys, threading, time
from pathlib import Path
from distributed_fmlp.serving.early_stop import ending_at_once
directory = Path(sys.argv[1])
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
nest = "import subprocess, sys, time; subprocess.Popen(sys.argv[1:]); time.sleep(600)"
leave = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:]).pid, flush=True)"
with ending_at_once(directory):
    subprocess.Popen([sys.executable, "-c", nest, *sleep])
    subprocess.run([sys.executable, "-c", leave, *sleep, str(directory / "configuration")])
    lock = threading.Lock()
    lock.acquire()
    while True:
        lock.acquire(timeout=600)  # no signal handler of Python's own would be noticed for long
"""


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_children_and_those_left_behind_and_removes_their_files(
    tmp_path: Path, kind: int
) -> None:
    directory = tmp_path / "files"
    (directory / "inner").mkdir(parents=True)
    process = subprocess.Popen(
        [sys.executable, "-c", FAMILY, str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    family: list[psutil.Process] = []
    try:
        assert process.stdout is not None
        family.append(psutil.Process(int(process.stdout.readline())))  # the one left behind
        leader = psutil.Process(process.pid)
        until = time.monotonic() + 20
        while not any("sleep(600)" in each.cmdline()[-1] for each in _nested(leader)):
            assert time.monotonic() < until
            time.sleep(0.05)
        family += leader.children(recursive=True)
        os.kill(process.pid, kind)
        _, err = process.communicate(timeout=20)
        assert (process.returncode, err) == (130, "Stopped before it served.\n")
        assert not directory.exists()
        _, alive = psutil.wait_procs(family, timeout=10)
        assert alive == []
    finally:
        for each in (process, *family):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait(10)


def _nested(leader: psutil.Process) -> list[psutil.Process]:
    """Grandchildren that run something of their own."""
    found = set(leader.children(recursive=True)) - set(leader.children())
    return [each for each in found if each.is_running() and each.cmdline()]
