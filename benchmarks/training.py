"""How fast the sweep is: beside the usual script in one run, and against the bars set for it.

`python benchmarks/training.py` prints one table and writes every measurement to a JSON file. A bar
that is missed is printed as not met; only a part that can't be measured makes it fail.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from training_children import PROJECT, Bench, make_bench
from training_memory import TRIAL_IMPORTS, TrialMemory, own_memory_of
from training_table import all_figures, render

HERE = Path(__file__).resolve().parent
# In this order: what is compared is measured one right after the other.
PARTS = ("step", "script", "sweep", "tune", "repeat")
LEARNING_RATES = (0.005, 0.001, 0.0009, 0.0006)
REPEATED = (0.005, 0.001)  # of a smoke run, all
MOST_BUSY_PERCENT = 10.0
SMOKE_STEPS = 40


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
        *_repeated("--lr", bench.learning_rates),
        *("--epochs", str(bench.epochs)),
        *("--root", str(bench.torchvision_root)),
        *("--storage", str(bench.scratch / "baseline")),
        *("--out", str(out)),
    ]
    _, wall = bench.run(kind, str(HERE / "training_baselines.py"), *words)
    return {**_read(out), "wall_seconds": wall}


def measure_sweep(bench: Bench) -> dict[str, Any]:
    """(3): this project's sweep by its command."""
    return _sweep(bench, "sweep", bench.learning_rates)


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


def measure_parts(bench: Bench, names: Sequence[str]) -> dict[str, Any]:
    """Measure the named parts in the order of `PARTS`; one that fails doesn't keep the others."""
    parts: dict[str, dict[str, Any]] = {}
    failed: list[str] = []
    busy: dict[str, float] = {}
    for part in (part for part in PARTS if part in names):
        busy[part] = psutil.cpu_percent(interval=2)
        if busy[part] > MOST_BUSY_PERCENT:
            _tell(
                f"warning: the CPUs are {busy[part]:.0f} % busy before {part} is measured; what "
                "uses several threads suffers most, so don't trust the ratios"
            )
        started = time.perf_counter()
        try:
            parts[part] = MEASURE[part](bench)
        except (RuntimeError, OSError, ValueError) as error:
            failed.append(part)
            _tell(f"{part} could not be measured: {error}")
        _tell(f"{part}: {time.perf_counter() - started:.0f} s")
    return {"failed": failed, "busy_percent_before": busy, "parts": parts}


def run(given: argparse.Namespace) -> int:
    """Measure the parts asked for, print the table and write the JSON; gives the exit status."""
    from distributed_fmlp import provenance
    from distributed_fmlp.data import load_dataset

    dataset = load_dataset("digits" if given.smoke else "fashion-mnist", given.data_dir)
    learning_rates = REPEATED if given.smoke else LEARNING_RATES
    with tempfile.TemporaryDirectory(
        prefix="training-bench-", ignore_cleanup_errors=True
    ) as scratch:
        steps = SMOKE_STEPS if given.smoke else given.steps
        bench = make_bench(dataset, learning_rates, given.epochs, steps, Path(scratch))
        measured = measure_parts(bench, given.parts)
    figures = all_figures(measured["parts"])
    versions, machine, now = provenance.versions(), provenance.machine(), provenance.now()
    record = {
        "measured": now,
        "dataset": {"name": dataset.name, "sha256": dataset.sha256},
        "epochs": given.epochs,
        "learning_rates": learning_rates,
        "machine": machine,
        "versions": versions,
        "source": provenance.source(),
        "figures": [figure.to_json() for figure in figures],
        **measured,
    }
    # A smoke run's figures must not take the place of a real run's.
    out = given.out or (None if given.smoke else HERE / "training.json")
    if out is not None:
        _write(out, record)
    print(
        f"{dataset.name}, {given.epochs} epochs of {len(learning_rates)} learning rates; "
        f"{machine['cpus']} CPUs ({machine['processor']}), torch {versions['torch']}, "
        f"ray {versions['ray']}, Python {versions['python']}; {now}\n"
    )
    print(render(figures))
    return 1 if measured["failed"] else 0


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    sys.path.insert(0, str(PROJECT))  # a checkout need not be installed
    from distributed_fmlp.command_line import OneLineParser, whole
    from distributed_fmlp.errors import UserError

    parser = OneLineParser(
        description=__doc__.splitlines()[0] if __doc__ else None, allow_abbrev=False
    )
    parser.add_argument(
        "--epochs",
        type=whole(1, "at least 1 epoch"),
        default=4,
        help="epochs of each learning rate (default: %(default)s; the first is left out)",
    )
    parser.add_argument("--data-dir", type=Path, help="a torchvision root (see the sweep's option)")
    parser.add_argument(
        "--steps",
        type=whole(SMOKE_STEPS, f"at least {SMOKE_STEPS} steps"),
        default=600,
        help="steps timed alone (default: %(default)s)",
    )
    parser.add_argument(
        "--out", type=Path, help="the JSON file (default: training.json beside this)"
    )
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure (default: all)"
    )
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="small data, to see that it works; figures mean nothing",
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that children are ended too
    try:
        sys.exit(run(parser.parse_args()))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
