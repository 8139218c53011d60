"""What this machine's process list shows while the tests go on, looked at once a second."""

from __future__ import annotations

import threading
import time
from pathlib import Path

_SECONDS = 1.0


class ProcessList:
    """The command lines of all processes, those on pseudo-hosts included, in samples over time."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.samples = 0
        self.began = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(_SECONDS):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    content = path.read_bytes()
                except OSError:  # it has just ended
                    continue
                self.seen.add(content.replace(b"\0", b" ").decode(errors="replace").strip())
            self.samples += 1

    def seconds(self) -> float:
        """How long it has been looking."""
        return time.monotonic() - self.began

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(10)
