"""The processes that are measured: their data and environment, and how they are run and timed."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

PROJECT = Path(__file__).resolve().parent.parent
SAMPLE_SECONDS = 0.5
_LONGEST_RAY_TEMP = 40  # the path of a socket holds 107 characters, and Ray adds some 60
# What would change the threads or the allocator of one side only.
_UNSET = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAY_ADDRESS")


@dataclass(frozen=True)
class Bench:
    """What all parts are measured with."""

    dataset: str
    data_dir: str | None
    learning_rates: tuple[float, ...]
    epochs: int
    steps: int
    scratch: Path
    torchvision_root: Path
    dataset_bytes: int
    environment: Mapping[str, str]

    @property
    def data_options(self) -> list[str]:
        directory = [] if self.data_dir is None else ["--data-dir", self.data_dir]
        return ["--dataset", self.dataset, *directory]

    def run(
        self, name: str, *command: str, watch: Callable[[psutil.Process], None] | None = None
    ) -> tuple[float, float]:
        """Run a Python command to its end; gives when it was started (s since 1970) and its wall
        time (s).

        `watch` is called with the process every half second. Raises `RuntimeError` with the end of
        its output when it fails.
        """
        log = self.scratch / f"{name}.log"
        with log.open("wb") as file:
            started, since = time.time(), time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=self.scratch,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                if watch is None:
                    process.wait()
                while process.poll() is None:
                    assert watch is not None
                    watch(psutil.Process(process.pid))
                    time.sleep(SAMPLE_SECONDS)
            finally:
                _end(process)
            wall = time.perf_counter() - since
        if process.returncode != 0:
            tail = "\n".join(log.read_text("utf-8", "replace").splitlines()[-30:])
            raise RuntimeError(f"{name} ended with status {process.returncode}:\n{tail}")
        return started, wall


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop a child that still runs, when this process is interrupted."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def make_bench(
    dataset: Any, learning_rates: tuple[float, ...], epochs: int, steps: int, scratch: Path
) -> Bench:
    """Lay a `Dataset` out in `scratch` for torchvision, and say how to measure with it."""
    root = scratch / "torchvision"
    write_torchvision_root(dataset, root)
    return Bench(
        dataset=dataset.name,
        data_dir=dataset.location,
        learning_rates=learning_rates,
        epochs=epochs,
        steps=steps,
        scratch=scratch,
        torchvision_root=root,
        dataset_bytes=dataset.train_images.nbytes
        + dataset.train_labels.nbytes
        + dataset.test_images.nbytes
        + dataset.test_labels.nbytes
        + 8 * len(dataset.train_labels),  # the indices of the split
        environment=child_environment(scratch),
    )


def child_environment(scratch: Path) -> dict[str, str]:
    """What children get: a private Ray, and nothing that would favour one side."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in _UNSET and not name.startswith("MALLOC_")
    }
    environment |= {
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(PROJECT), os.environ.get("PYTHONPATH", "")])
        ),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    if len(str(scratch)) <= _LONGEST_RAY_TEMP:
        environment["RAY_TMPDIR"] = str(scratch)
    return environment


def write_torchvision_root(dataset: Any, root: Path) -> None:
    """The arrays of a `Dataset` as the unpacked files that torchvision's FashionMNIST reads."""
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for prefix, images, labels in (
        ("train", dataset.train_images, dataset.train_labels),
        ("t10k", dataset.test_images, dataset.test_labels),
    ):
        squares = images.reshape(-1, 28, 28)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx_bytes(squares))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx_bytes(labels.astype(np.uint8)))


def idx_bytes(array: npt.NDArray[np.uint8]) -> bytes:
    """An array in the IDX format of the MNIST database: a magic number, sizes, then the bytes."""
    head = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, dtype=">u4").tobytes()
    return head + array.tobytes()
