"""What a person sees: the live table on a real terminal, and Ctrl-C pressed there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import shlex
import struct
import sys
import termios
import time

import pytest

from tests.sweep.conftest import PATIENCE, Desk

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
ROW = re.compile(r"^ *(?P<lr>0\.\d+) +(?P<seed>\d) +(?P<epoch>\d+)/6 .*$", re.MULTILINE)


class Terminal:
    """A command on a pseudo-terminal of its own, 120 columns wide."""

    def __init__(self, desk: Desk, *words: str, lines: int = 40) -> None:
        self.shown = ""
        environment = desk.environment(TERM="xterm-256color")
        arguments = [sys.executable, "-m", "distributed_fmlp.tune", *words]
        self.pid, self._master = pty.fork()
        if self.pid == 0:  # only what is safe in a child of a process with threads
            os.chdir(desk.cwd)
            os.execve(sys.executable, arguments, environment)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, 120, 0, 0))

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def read_until(self, wanted: str) -> None:
        """Read what is shown until a pattern is there."""
        until = time.monotonic() + PATIENCE
        while not re.search(wanted, self.shown):
            if not self._read(until):
                raise AssertionError(f"{wanted!r} was never shown:\n{self.shown[-3000:]}")

    def finish(self) -> int:
        until = time.monotonic() + PATIENCE
        while self._read(until):
            pass
        os.close(self._master)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self, until: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0.0, until - time.monotonic()))
        content = b""
        if ready:
            with contextlib.suppress(OSError):  # a terminal whose other side is closed
                content = os.read(self._master, 1 << 16)
        self.shown += ESCAPES.sub("", content.decode(errors="replace"))
        return bool(content)


@pytest.mark.slow
def test_a_terminal_shows_a_table_that_ctrl_c_ends_and_the_printed_command_takes_up(
    desk: Desk,
) -> None:
    terminal = Terminal(
        desk,
        *shlex.split("--dataset digits --hidden 256 64 --batch-size 8 --epochs 6 --name watched"),
        *shlex.split("--lr 0.01 --lr 0.001"),
    )
    terminal.read_until(r"[12]/6 ")
    terminal.press("\x03")
    assert terminal.finish() == 130
    headings = ("lr", "seed", "epoch", "train", "val.", "loss", "acc %", "F1", "best", "left")
    assert all(heading in terminal.shown for heading in headings)
    assert "Ctrl-C stops and keeps everything" in terminal.shown
    rows = list(ROW.finditer(terminal.shown))
    assert {row["lr"] for row in rows} == {"0.01", "0.001"}  # a row for each trial
    assert "WARNING" not in terminal.shown and "(train_trial" not in terminal.shown
    printed = re.search(r"^ *\S+ -m distributed_fmlp\.tune (?P<rest>--resume .+)$",
                        terminal.shown, re.MULTILINE)  # fmt: skip
    assert printed is not None

    again = Terminal(desk, *shlex.split(printed["rest"]))
    assert again.finish() == 0
    last = {row["lr"]: row[0] for row in ROW.finditer(again.shown)}
    assert len(last) == 2
    for line in last.values():
        assert re.search(r" 6/6 .*\d\.\d{4} .*@\d +done", line), line
    assert "chosen" in again.shown and "Serve it" in again.shown


@pytest.mark.slow
def test_a_terminal_lower_than_the_table_shows_what_runs_and_at_the_end_every_trial(
    desk: Desk,
) -> None:
    seeds = [word for seed in range(4) for word in ("--seed", str(seed))]
    terminal = Terminal(
        desk,
        *shlex.split("--dataset digits --hidden 32 --epochs 6 --lr 0.001 --name low"),
        *seeds,
        lines=8,
    )
    assert terminal.finish() == 0
    counted = re.findall(r"^ *and (.*(?:finished|waiting))", terminal.shown, re.MULTILINE)
    assert any("waiting" in each for each in counted), terminal.shown
    assert any("finished" in each for each in counted), terminal.shown
    assert not re.search(r"^ *\.\.\. *$", terminal.shown, re.MULTILINE)  # rich cuts off so
    last = {row["seed"]: row[0] for row in ROW.finditer(terminal.shown)}
    assert sorted(last) == list("0123")
    assert all(line.rstrip().endswith("done") for line in last.values())
