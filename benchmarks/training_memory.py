"""Memory of the sweep's processes, seen from outside while it runs (Linux)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

_OBJECT_STORE = "plasma"  # in the name of the file that Ray's object store maps
# What a trial's process has imported by the time it trains.
TRIAL_IMPORTS = "import distributed_fmlp.sweep.trainable"


class TrialMemory:
    """Highest figures, in bytes, of a run's trial processes over many samples."""

    def __init__(self, run_path: Path) -> None:
        self._run_path = run_path
        self.own: dict[int, int] = {}  # USS by process
        self.mapped: dict[int, int] = {}  # object-store pages in use, by process
        self.mapped_private: dict[int, int] = {}  # those of them that no other process uses
        self.object_store: int | None = None  # bytes the store holds
        self.samples = 0

    def sample(self, sweep: psutil.Process) -> None:
        """Look at all trials that have done an epoch, and at Ray's object store.

        A trial that is alone is passed over: what libraries share between trials would be its own.
        """
        alive = [pid for pid in self._trial_processes() if psutil.pid_exists(pid)]
        for pid in alive if len(alive) > 1 else []:
            try:
                process = psutil.Process(pid)
                if not process.name().startswith("ray::"):
                    continue  # ended; Ray names a worker otherwise when it is idle
                own = int(process.memory_full_info().uss)
                store = [row for row in process.memory_maps() if _OBJECT_STORE in row.path]
            except (psutil.Error, OSError):
                continue
            self.samples += 1
            _keep_highest(self.own, pid, own)
            _keep_highest(self.mapped, pid, sum(row.rss for row in store))
            _keep_highest(
                self.mapped_private,
                pid,
                sum(row.private_clean + row.private_dirty for row in store),
            )
        held = _object_store_bytes(sweep)
        if held is not None:
            self.object_store = max(held, self.object_store or 0)

    def _trial_processes(self) -> list[int]:
        found = []
        for path in self._run_path.glob("trials/*/trial.json"):
            try:
                record = json.loads(path.read_text("utf-8"))
            except (OSError, ValueError):
                continue
            if record["status"] == "running" and "process" in record["resources"]:
                found.append(int(record["resources"]["process"]))
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            "samples": self.samples,
            "trials": [
                {
                    "own_bytes": self.own[pid],
                    "object_store_mapped_bytes": self.mapped[pid],
                    "object_store_private_bytes": self.mapped_private[pid],
                }
                for pid in sorted(self.own)
            ],
            "object_store_bytes": self.object_store,
        }


def own_memory_of(code: str, environment: Mapping[str, str]) -> int:
    """USS in bytes of a Python process that has run `code`.

    Two such processes live at once, so that what libraries share between processes is no more
    counted here than for trials, of which at least two live at once too.
    """
    hold = f"{code}\nimport sys\nprint(flush=True)\nsys.stdin.read()"
    held = [
        subprocess.Popen(
            [sys.executable, "-c", hold],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(environment),
        )
        for _ in range(2)
    ]
    try:
        for process in held:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise RuntimeError(f"a process that was to run {code!r} ended")
        return max(int(psutil.Process(process.pid).memory_full_info().uss) for process in held)
    finally:
        for process in held:
            process.kill()
            process.communicate()


def _keep_highest(known: dict[int, int], pid: int, value: int) -> None:
    known[pid] = max(value, known.get(pid, 0))


def _object_store_bytes(sweep: psutil.Process) -> int | None:
    """Bytes behind the object store's file, which is sparse: what isn't used takes none."""
    try:
        for process in sweep.children(recursive=True):
            if process.name() != "raylet":
                continue
            for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
                if _OBJECT_STORE in os.readlink(descriptor):
                    return descriptor.stat().st_blocks * 512
    except (psutil.Error, OSError):
        return None
    return None
