"""Ends the service at once where Ray's own processes have ended under it.

Calls into Ray then wait for a minute before they give up, and end this process when they do, with
its files left. It happens when what stops the service reaches all its processes alike, as the
signals of systemd, of `timeout` and of a terminal that is closed do.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from distributed_fmlp.serving.early_stop import end_processes

EXIT_LOST = 1
_PARTS = ("gcs_server", "raylet")  # a private Ray has its own, and is nothing without them
_PERIOD = 0.2
_SETTLE_SECONDS = 1.0  # the signal that ended Ray may be about to be noticed here
_CLOSING_SECONDS = 30.0


class RayWatch:
    """A thread that looks after Ray from `begin` to the end of the `with` block.

    Ends this process and all that it has started when Ray is lost, with status 0 when `stop` is set
    by then and else 1; and when Ray takes longer to end than it should. `directory`, which holds
    their files, is removed.
    """

    def __init__(self, directory: Path, stop: threading.Event) -> None:
        self._directory = directory
        self._stop = stop
        self._said = os.dup(2)  # where Ray's noise doesn't go
        self._node: Any = None
        self._closing_since: float | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        os.close(self._said)

    def begin(self) -> None:
        """Ray runs, and is to go on until `closing` is called."""
        from ray._private import worker

        self._node = worker._global_node
        self._thread.start()

    def closing(self) -> None:
        """From now on Ray's processes end because they are told to."""
        self._closing_since = time.monotonic()

    def _watch(self) -> None:
        while not self._over.wait(_PERIOD):
            since = self._closing_since
            if since is None:
                if self._lost():
                    stopping = self._stop.wait(_SETTLE_SECONDS)
                    self._end("Ray's processes have ended", 0 if stopping else EXIT_LOST)
            elif time.monotonic() - since > _CLOSING_SECONDS:
                self._end("Ray doesn't end by itself", 0)

    def _lost(self) -> bool:
        return any(kind in _PARTS for kind, _ in self._node.dead_processes())

    def _end(self, why: str, status: int) -> None:
        if self._over.is_set():
            return
        end_processes(self._directory)
        shutil.rmtree(self._directory, ignore_errors=True)
        words = f"Stopped at once: {why}, and requests under way with them.\n"
        if status:
            words = f"error: {why}, and so has the service: start it again\n"
        with contextlib.suppress(OSError):  # whoever read it may be gone
            os.write(self._said, words.encode())
        os._exit(status)
