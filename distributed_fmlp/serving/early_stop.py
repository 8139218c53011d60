"""A signal while the service starts: there is no request yet, so all of it ends at once.

An exception from a signal handler, the usual way, would strike in the middle of an import or of
Ray's start: locks stay held, threads wait for each other, and calls into Ray's C++ don't return for
a minute when the same signal has ended Ray's processes. A thread that waits for the signal's number
is in nobody's way.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

EXIT_STOPPED = 130
# A terminal that is closed sends SIGHUP, which nohup has ignored.
SIGNALS = tuple(
    number
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
)
_KILL_SECONDS = 5.0


@contextlib.contextmanager
def ending_at_once(directory: Path) -> Iterator[None]:
    """Inside, a signal ends this process and all that it has started, with status 130.

    `directory`, which holds their files, is removed. Whoever leaves has put handlers of their own
    in place by then. To be used in the main thread.
    """
    reader, writer = socket.socketpair()
    said = os.dup(2)  # where Ray's noise doesn't go
    writer.setblocking(False)
    watcher = threading.Thread(target=_watch, args=(reader, said, directory), daemon=True)
    watcher.start()
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    take_signals()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        writer.close()
        watcher.join()
        reader.close()
        os.close(said)


def take_signals() -> None:
    """Let the watching thread alone have the signals; again after Ray has taken SIGTERM."""
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)


def _watch(reader: socket.socket, said: int, directory: Path) -> None:
    while number := reader.recv(1):
        if number[0] in SIGNALS:
            end_processes(directory)
            shutil.rmtree(directory, ignore_errors=True)
            with contextlib.suppress(OSError):  # whoever read it may be gone
                os.write(said, b"Stopped before it served.\n")
            os._exit(EXIT_STOPPED)


def end_processes(directory: Path) -> None:
    """Kill what this process has started, and what of it was left to the system's first process.

    The latter is known by `directory` in its command.
    """
    me = psutil.Process()
    until = time.monotonic() + _KILL_SECONDS
    while time.monotonic() < until:
        family = {each.pid: each for each in me.children(recursive=True)}
        for each in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if each.ppid() == 1 and any(str(directory) in word for word in each.cmdline()):
                    family[each.pid] = each
        left = [each for each in family.values() if _kill(each)]
        if not left:
            return
        time.sleep(0.05)


def _kill(process: psutil.Process) -> bool:
    """Whether it was still there to be killed."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        process.kill()
        return True
    except psutil.Error:
        return False
