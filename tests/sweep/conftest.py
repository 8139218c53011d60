"""Runs the real command in a session of its own, and sees to it that nothing of it is left."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

import distributed_fmlp

ROOT = Path(distributed_fmlp.__file__).parents[1]
MARK = "FMLP_TEST_MARK"
PATIENCE = 240.0  # s; a machine may have much else to do
EPOCH_LINE = re.compile(r"^lr (?P<lr>\S+) seed (?P<seed>\d+)  epoch +(?P<epoch>\d+)/(?P<of>\d+)  ")
# Long enough to be killed in the middle, short enough to wait for.
RECIPE = shlex.split(
    "--dataset digits --hidden 256 64 --batch-size 8 --epochs 10 --lr 0.001 --lr 0.01"
)


@dataclass
class Finished:
    """A command that has ended."""

    status: int
    out: str
    err: str


class Command:
    """One run of `python -m distributed_fmlp.tune`, while it goes on."""

    def __init__(self, words: list[str], cwd: Path, env: dict[str, str]) -> None:
        self.lines: list[str] = []
        self._errors: list[str] = []
        self._news = threading.Condition()
        self.process = subprocess.Popen(
            words,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._readers = [
            threading.Thread(target=self._read, args=(pipe, lines), daemon=True)
            for pipe, lines in (
                (self.process.stdout, self.lines),
                (self.process.stderr, self._errors),
            )
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, pipe: object, lines: list[str]) -> None:
        for line in pipe:  # type: ignore[attr-defined]
            with self._news:
                lines.append(line)
                self._news.notify_all()

    def wait_for(self, wanted: Callable[[str], object]) -> str:
        """The first line of standard output, past or to come, that is `wanted`."""
        until = time.monotonic() + PATIENCE
        with self._news:
            seen = 0
            while time.monotonic() < until:
                for line in self.lines[seen:]:
                    if wanted(line):
                        return line
                seen = len(self.lines)
                if self.process.poll() is not None and not self._readers[0].is_alive():
                    break
                self._news.wait(0.5)
        raise AssertionError(f"the line never came; status {self.process.poll()}\n{self.told()}")

    def wait_for_epoch(self, epoch: int, lr: float | None = None) -> str:
        """Wait until a trial has told of an epoch."""

        def wanted(line: str) -> bool:
            found = EPOCH_LINE.match(line)
            return bool(
                found and int(found["epoch"]) >= epoch and (lr is None or float(found["lr"]) == lr)
            )

        return self.wait_for(wanted)

    def kill(self, kind: int = signal.SIGKILL) -> None:
        """Signal the command's own process, not its children."""
        self.process.send_signal(kind)

    def finish(self, patience: float = PATIENCE) -> Finished:
        try:
            status = self.process.wait(patience)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it goes on and on\n{self.told()}") from None
        for reader in self._readers:
            reader.join(30)
        return Finished(status, "".join(self.lines), "".join(self._errors))

    def told(self) -> str:
        return "".join(["--- out\n", *self.lines, "--- err\n", *self._errors])


@dataclass
class Desk:
    """A working directory, a HOME and a place for Ray's sockets, all of them empty at first."""

    path: Path
    ray: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def cwd(self) -> Path:
        return self.path / "work"

    @property
    def home(self) -> Path:
        return self.path / "home"

    @property
    def results(self) -> Path:
        return self.cwd / "results"

    def environment(self, **changes: str) -> dict[str, str]:
        kept = {key: os.environ[key] for key in ("PATH", "LANG", "LC_ALL") if key in os.environ}
        return {
            **kept,
            "HOME": str(self.home),
            "PYTHONPATH": str(ROOT),
            "RAY_TMPDIR": str(self.ray),  # a short path: sockets lie there
            MARK: self.mark,
            **changes,
        }

    def start(self, *words: str, **environment: str) -> Command:
        return self.start_words(
            [sys.executable, "-m", "distributed_fmlp.tune", *words], **environment
        )

    def start_words(self, words: list[str], **environment: str) -> Command:
        return Command(words, self.cwd, self.environment(**environment))

    def run(self, *words: str, **environment: str) -> Finished:
        return self.start(*words, **environment).finish()

    def processes(self) -> list[psutil.Process]:
        """All living processes that were started from here, however they were reparented."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and (
                    process.status() != psutil.STATUS_ZOMBIE
                ):
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def kill_everything(self) -> None:
        for process in self.processes():
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue

    def wait_until_empty(self, patience: float = 40.0) -> list[psutil.Process]:
        """Processes that are still there after a while."""
        until = time.monotonic() + patience
        while (left := self.processes()) and time.monotonic() < until:
            time.sleep(0.2)
        return left


def make_desk(path: Path) -> Desk:
    desk = Desk(path, Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp")))
    desk.cwd.mkdir(parents=True)
    desk.home.mkdir()
    return desk


def clear_desk(desk: Desk) -> None:
    left = desk.wait_until_empty()
    told = [f"{process.pid} {' '.join(process.cmdline())[:80]}" for process in left]
    desk.kill_everything()
    shutil.rmtree(desk.ray, ignore_errors=True)
    assert not told, f"processes were left behind: {told}"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A place to run the command from; fails the test when a process outlives it."""
    made = make_desk(tmp_path)
    yield made
    clear_desk(made)


@dataclass
class Reference:
    """A sweep that was never interrupted, and what was seen while it ran."""

    desk: Desk
    run: Path
    finished: Finished
    commands: list[str]  # of its processes
    listening: list[str]  # addresses they listened on
    meanwhile: list[Finished]  # attempts to resume it, and to begin it again, while it ran


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    """Two learning rates and two seeds on digits, from beginning to end."""
    made = make_desk(tmp_path_factory.mktemp("reference"))
    command = made.start(*RECIPE, "--seed", "0", "--seed", "1", "--name", "reference")
    command.wait_for_epoch(2)
    commands = [" ".join(process.cmdline()) for process in made.processes()]
    listening = [
        socket.laddr.ip
        for process in made.processes()
        for socket in process.net_connections("inet")
        if socket.status == psutil.CONN_LISTEN
    ]
    meanwhile = [
        made.run("--resume", "reference"),
        made.run("--dataset", "digits", "--epochs", "1", "--name", "reference"),
    ]
    assert command.process.poll() is None, "the reference was over too soon"
    finished = command.finish()
    yield Reference(made, made.results / "reference", finished, commands, listening, meanwhile)
    clear_desk(made)
