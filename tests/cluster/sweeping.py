"""Sweeps on the cluster: started as a user would, watched, compared with one on one machine."""

from __future__ import annotations

import collections
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cluster.hosts import Host
from cluster.real_cluster import RealCluster

EPOCHS = 16
RATES = ("0.01", "0.003", "0.001", "0.0003")
RECIPE = (
    f"--dataset digits --hidden 256 64 --batch-size 4 --cpus-per-trial 1 --epochs {EPOCHS} "
    + " ".join(f"--lr {rate}" for rate in RATES)
)
_EPOCH_LINE = re.compile(r"^lr (?P<lr>\S+) seed \d+  epoch +(?P<epoch>\d+)/")
_TRAINED = re.compile(r"^\S+ (?P<trial>lr_\S+) (?P<what>has trained|starts after) epoch (?P<n>\d+)")


class Tune:
    """`python -m distributed_fmlp.tune` on a host, while it goes on."""

    def __init__(self, host: Host, words: str) -> None:
        self.host = host
        self.started = time.monotonic()
        self.output: list[str] = []
        self.epochs: dict[str, int] = {}  # the latest told, by learning rate
        command = f"exec python -m distributed_fmlp.tune {words}"
        self._process = subprocess.Popen(
            host.words(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.output.append(line)
            if found := _EPOCH_LINE.match(line):
                self.epochs[found["lr"]] = int(found["epoch"])

    def wait_for_epoch(self, epoch: int, at_least: int = 1, patience: float = 180) -> None:
        """Wait until `at_least` trials have told of an epoch."""
        self.wait_for(
            lambda: sum(told >= epoch for told in self.epochs.values()) >= at_least, patience
        )

    def wait_for(self, holds: Callable[[], object], patience: float = 180) -> None:
        until = time.monotonic() + patience
        while not holds():
            assert self._process.poll() is None and time.monotonic() < until, self.told()
            time.sleep(0.1)

    def driver(self) -> int | None:
        """The driver's process id, as this machine counts; `None` before it has started."""
        for pid in self.host.processes():
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"distributed_fmlp.tune" in words:
                return int(pid)
        return None

    def kill(self) -> None:
        """SIGKILL for the driver itself."""
        driver = self.driver()
        assert driver is not None
        os.kill(driver, signal.SIGKILL)
        self._process.wait(30)

    def end(self, patience: float = 300) -> float:
        """Wait for its good end; the seconds since it was started."""
        try:
            status = self._process.wait(patience)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it goes on and on\n{self.told()}") from None
        self._reader.join(10)
        assert status == 0, self.told()
        return time.monotonic() - self.started

    def abandon(self) -> None:
        """Its host is gone: so is it."""
        self._process.kill()
        self._process.wait(30)

    def told(self) -> str:
        return f"exit status {self._process.poll()}\n" + "".join(self.output)[-6000:]


def results_of(run: Path) -> dict[str, str]:
    """What must be the same bits: per trial the weights' SHA-256 and the text of epochs.csv."""
    found = {"manifest": json.loads((run / "bundle" / "manifest.json").read_text())["weights"]}
    found = {"bundle": found["manifest"]["sha256"]}
    for directory in sorted((run / "trials").iterdir()):
        record = json.loads((directory / "trial.json").read_text())
        assert record["status"] == "finished", record
        found[f"{directory.name} chosen"] = record["weights_sha256"]
        found[f"{directory.name} last"] = record["last_weights_sha256"]
        found[f"{directory.name} epochs"] = (directory / "epochs.csv").read_text()
    return found


@dataclass(frozen=True)
class Computed:
    """What the trials' own logs say was computed, over all nodes."""

    twice: dict[str, int]  # by trial: epochs trained to their end more than once
    starts: int  # of trial processes

    @classmethod
    def since(cls, cluster: RealCluster, started: float) -> Computed:
        """From the logs of trial processes that began after `started` (seconds since 1970)."""
        trained: collections.Counter[tuple[str, str]] = collections.Counter()
        starts = 0
        for name, path in cluster.logs().items():
            if "/worker-" not in name or path.stat().st_mtime < started:
                continue
            for line in path.read_text(errors="replace").splitlines():
                found = _TRAINED.match(line)
                if found and found["what"] == "has trained":
                    trained[found["trial"], found["n"]] += 1
                elif found:
                    starts += 1
        twice: collections.Counter[str] = collections.Counter()
        for (trial, _), times in trained.items():
            twice[trial] += times - 1
        return cls({trial: count for trial, count in twice.items() if count}, starts)
