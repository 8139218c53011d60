"""How fast the sweep is: beside the usual script in one run, and against the bars set for it.

`python benchmarks/training.py` prints one table and writes every measurement to a JSON file. A bar
that is missed is printed as not met; only a part that can't be measured makes it fail.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
from training_memory import TRIAL_IMPORTS, TrialMemory, own_memory_of
from training_table import all_figures, render

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent
# In this order: what is compared is measured one right after the other.
PARTS = ("step", "script", "sweep", "tune", "repeat")
LEARNING_RATES = (0.005, 0.001, 0.0009, 0.0006)
REPEATED = (0.005, 0.001)
SAMPLE_SECONDS = 0.5
_LONGEST_RAY_TEMP = 40  # the path of a socket holds 107 characters, and Ray adds some 60
# What would change the threads or the allocator of one side only.
_UNSET = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAY_ADDRESS")


@dataclass(frozen=True)
class Bench:
    """What all parts are measured with."""

    dataset: str
    data_dir: str | None
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


def measure_step(bench: Bench) -> dict[str, Any]:
    """The training step alone; see training_step.py."""
    out = bench.scratch / "step.json"
    words = [*bench.data_options, "--steps", str(bench.steps), "--out", str(out)]
    bench.run("step", str(HERE / "training_step.py"), *words)
    return _read(out)


def measure_script(bench: Bench) -> dict[str, Any]:
    """(1): the usual script, one learning rate after another."""
    return _measure_baseline(bench, "script")


def measure_tune(bench: Bench) -> dict[str, Any]:
    """(2): the same in Ray Tune trials."""
    return _measure_baseline(bench, "tune")


def _measure_baseline(bench: Bench, kind: str) -> dict[str, Any]:
    out = bench.scratch / f"{kind}.json"
    words = [
        kind,
        *_repeated("--lr", LEARNING_RATES),
        *("--epochs", str(bench.epochs)),
        *("--root", str(bench.torchvision_root)),
        *("--storage", str(bench.scratch / "baseline")),
        *("--out", str(out)),
    ]
    _, wall = bench.run(kind, str(HERE / "training_baselines.py"), *words)
    return {**_read(out), "wall_seconds": wall}


def measure_sweep(bench: Bench) -> dict[str, Any]:
    """(3): this project's sweep by its command."""
    return _sweep(bench, "sweep", LEARNING_RATES)


def measure_repeat(bench: Bench) -> dict[str, Any]:
    """Two trials of the sweep once more: for their weights, and to look at their memory.

    Apart from the sweep whose time is taken: looking stops a process for some milliseconds.
    """
    one_thread = {**bench.environment, "OMP_NUM_THREADS": "1"}
    torch_bytes = own_memory_of("import torch", one_thread)
    imports_bytes = own_memory_of(TRIAL_IMPORTS, one_thread)
    memory = TrialMemory(bench.scratch / "results" / "repeat")
    before = bench.scratch / "results" / "sweep" / "run.json"
    # The bits depend on the threads, and two trials alone might be given more than two of four.
    threads = _read(before)["resources"]["cpus_per_trial"] if before.exists() else 1
    measured = _sweep(bench, "repeat", REPEATED, threads=threads, watch=memory.sample)
    return {
        **measured,
        "memory": {
            **memory.to_json(),
            "torch_bytes": torch_bytes,
            "imports_bytes": imports_bytes,
            "dataset_bytes": bench.dataset_bytes,
        },
    }


def _sweep(
    bench: Bench,
    name: str,
    learning_rates: Sequence[float],
    *,
    threads: int | None = None,
    watch: Callable[[psutil.Process], None] | None = None,
) -> dict[str, Any]:
    results = bench.scratch / "results"
    words = [
        *bench.data_options,
        *_repeated("--lr", learning_rates),
        *("--epochs", str(bench.epochs)),
        *("--results", str(results)),
        *("--name", name),
    ]
    words += [] if threads is None else ["--cpus-per-trial", str(threads)]
    started, wall = bench.run(name, "-m", "distributed_fmlp.tune", *words, watch=watch)
    info = _read(results / name / "run.json")
    trials = []
    for entry in info["trials"]:
        trial_id = entry["trial_id"]
        record = _read(results / name / "trials" / trial_id / "trial.json")
        (tune_log,) = (results / name / "tune").glob(f"attempt_*/{trial_id}/result.json")
        rows = [json.loads(line) for line in tune_log.read_text("utf-8").splitlines()]
        for row, told in zip(record["epochs"], rows, strict=True):
            row["time_this_iter_s"] = told["time_this_iter_s"]
        keys = ("trial_id", "learning_rate", "epochs", "weights_sha256", "last_weights_sha256")
        trials.append({**{key: record[key] for key in keys}, "resources": record["resources"]})
    return {
        "trials": trials,
        "at_once": info["resources"]["max_concurrent"],
        "threads": info["resources"]["cpus_per_trial"],
        "wall_seconds": wall,
        "first_step": min(trial["resources"]["started"] for trial in trials) - started,
    }


MEASURE: Mapping[str, Callable[[Bench], dict[str, Any]]] = {
    "step": measure_step,
    "script": measure_script,
    "sweep": measure_sweep,
    "tune": measure_tune,
    "repeat": measure_repeat,
}


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


def _repeated(option: str, values: Sequence[float]) -> list[str]:
    return [word for value in values for word in (option, str(value))]


def _read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return value


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def run(given: argparse.Namespace) -> int:
    """Measure the parts asked for, print the table and write the JSON; gives the exit status."""
    sys.path.insert(0, str(PROJECT))  # a checkout need not be installed
    from distributed_fmlp import provenance
    from distributed_fmlp.data import load_dataset

    name = "digits" if given.smoke else "fashion-mnist"
    data_dir = None if given.data_dir is None else str(given.data_dir.absolute())
    dataset = load_dataset(name, None if data_dir is None else Path(data_dir))
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as directory:
        scratch = Path(directory)
        write_torchvision_root(dataset, scratch / "torchvision")
        bench = Bench(
            dataset=name,
            data_dir=data_dir,
            epochs=given.epochs,
            steps=40 if given.smoke else given.steps,
            scratch=scratch,
            torchvision_root=scratch / "torchvision",
            dataset_bytes=dataset.train_images.nbytes
            + dataset.train_labels.nbytes
            + dataset.test_images.nbytes
            + dataset.test_labels.nbytes
            + 8 * len(dataset.train_labels),  # the indices of the split
            environment=child_environment(scratch),
        )
        parts: dict[str, dict[str, Any]] = {}
        failed: list[str] = []
        for part in (part for part in PARTS if part in given.parts):
            started = time.perf_counter()
            try:
                parts[part] = MEASURE[part](bench)
            except (RuntimeError, OSError, ValueError) as error:
                failed.append(part)  # the minutes spent on the others are not thrown away
                print(f"{part} could not be measured: {error}", file=sys.stderr, flush=True)
            print(f"{part}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    figures = all_figures(parts)
    versions, machine = provenance.versions(), provenance.machine()
    _write(
        given.out,
        {
            "measured": provenance.now(),
            "dataset": {"name": dataset.name, "sha256": dataset.sha256},
            "epochs": given.epochs,
            "learning_rates": LEARNING_RATES,
            "machine": machine,
            "versions": versions,
            "source": provenance.source(),
            "figures": [figure.to_json() for figure in figures],
            "failed": failed,
            "parts": parts,
        },
    )
    print(
        f"{dataset.name}, {given.epochs} epochs of {len(LEARNING_RATES)} learning rates; "
        f"{machine['cpus']} CPUs ({machine['processor']}), torch {versions['torch']}, "
        f"ray {versions['ray']}, Python {versions['python']}; {provenance.now()}\n"
    )
    print(render(figures))
    return 1 if failed else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--epochs", type=int, default=2, help="epochs of each learning rate (default: 2)"
    )
    parser.add_argument("--data-dir", type=Path, help="a torchvision root (see the sweep's option)")
    parser.add_argument("--steps", type=int, default=600, help="steps timed alone (default: 600)")
    parser.add_argument("--out", type=Path, default=HERE / "training.json", help="the JSON file")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure (default: all)"
    )
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="small data, to see that it works; figures mean nothing",
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that children are ended too
    sys.exit(run(parser.parse_args()))


if __name__ == "__main__":
    main()
