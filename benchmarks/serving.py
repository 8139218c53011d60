"""How fast the service is: beside other servers with the same network, and against its bars.

`python benchmarks/serving.py` prints one table and writes every measurement to a JSON file. A bar
that is missed is printed as not met; only a server that can't be measured makes it fail.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from serving_load import run_wrk, write_bodies
from serving_servers import (
    HERE,
    MANY,
    OURS,
    PROJECT,
    SERVERS,
    Form,
    Pixels,
    Running,
    Server,
    prepare,
    python_of,
    running,
)
from serving_soak import MemoryWatch, growth_mib, growth_mib_by_role
from serving_table import (
    CONNECTIONS,
    load_figures,
    render_loads,
    soak_figures,
    start_figure,
)
from training_table import Figure, render

BODIES = {"raw": 16, "json": 16, "many": 4}  # different ones, sent in turn
_WARM_SECONDS = 1.0
_TOLERANCE = 1e-4
_LONGEST_TEMPORARY = 30  # Ray's sockets lie below, and their paths hold 107 characters


@dataclass(frozen=True)
class Bench:
    """What all servers are measured with; `expected` are the bundle's own answers to `images`."""

    bundle: Path
    venvs: Path
    seconds: float
    scratch: Path
    images: Pixels
    expected: Any


def check(server: Running, bench: Bench) -> None:
    """Raise `RuntimeError` unless a server gives the bundle's probabilities in every form."""
    for name, form in server.server.forms.items():
        count = MANY if name == "many" else 1
        for start in range(0, MANY, MANY if name == "many" else MANY // 4):
            rows = slice(start, start + count)
            given = server.ask(form, bench.images[rows])
            wanted = bench.expected[rows]
            if given.shape != wanted.shape or not np.allclose(given, wanted, atol=_TOLERANCE):
                raise RuntimeError(f"{server.server.label} answers {name} wrongly")


def measure(server: Server, bench: Bench) -> dict[str, Any]:
    """Start a server, check its answers, load it in every form with every number of connections."""
    loads: dict[str, dict[int, Any]] = {}
    scratch = bench.scratch / server.name
    with running(server, python_of(server, bench.venvs), bench.bundle, scratch) as up:
        check(up, bench)
        for name, form in server.forms.items():
            bodies = _bodies(name, form, bench)
            loads[name] = {}
            for connections in CONNECTIONS:
                images = MANY if name == "many" else 1
                for seconds in (_WARM_SECONDS, bench.seconds):
                    load = run_wrk(
                        up.url + form.path, connections, seconds, bodies, form.headers, images
                    )
                loads[name][connections] = load.to_json()
        return {"start_seconds": up.start_seconds, "loads": loads}


def soak(bench: Bench, seconds: float) -> dict[str, Any]:
    """Load the service with 64 connections for a while and watch its memory.

    As long a load goes before: pools and buffers fill up once, over some 200,000 requests.
    """
    server = SERVERS[OURS]
    form = server.forms["raw"]
    bodies = _bodies("raw", form, bench)
    with running(server, sys.executable, bench.bundle, bench.scratch / "soak") as up:
        run_wrk(up.url + form.path, 64, seconds, bodies, form.headers)
        with MemoryWatch(up.pid) as watch:
            load = run_wrk(up.url + form.path, 64, seconds, bodies, form.headers)
        return {
            "load": load.to_json(),
            "growth_mib": growth_mib(watch.samples),
            "growth_mib_by_role": growth_mib_by_role(watch.samples),
            "processes": max((each["processes"] for each in watch.samples), default=0),
            "samples": watch.samples,
        }


def _bodies(name: str, form: Form, bench: Bench) -> Path:
    """A directory with the bodies of one form."""
    directory = Path(tempfile.mkdtemp(prefix="bodies-", dir=bench.scratch))
    count = MANY if name == "many" else 1
    bodies = []
    for turn in range(BODIES[name]):
        images = np.roll(bench.images, turn, axis=0)[:count]
        bodies.append(form.encode(images))
    write_bodies(bodies, directory)
    return directory


def sample_images(count: int) -> Pixels:
    """Images uint8 `[count, 784]` of no data set, half of their pixels black as in clothes'."""
    random = np.random.default_rng(0)
    pixels = random.integers(1, 256, (count, 784), dtype=np.uint8)
    return pixels * (random.random((count, 784)) < 0.5).astype(np.uint8)


def matrix_limits(bench: Bench) -> dict[str, float]:
    """Images/s of bare matrix products, by batch size."""
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    command = [sys.executable, str(HERE / "serving_limit.py"), str(bench.bundle)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    limits: dict[str, float] = json.loads(done.stdout)
    return limits


def run(given: argparse.Namespace) -> int:
    """Measure what is asked for, print the tables and write the JSON; gives the exit status."""
    import torch

    from distributed_fmlp import provenance
    from distributed_fmlp.serving.bundle_place import find_bundle
    from distributed_fmlp.serving.model import open_model

    venvs = given.venvs.absolute()
    if given.prepare:
        for name in given.only:
            if SERVERS[name].packages:
                prepare(SERVERS[name], venvs, torch.__version__)
        return 0
    if shutil.which("wrk") is None:
        print("error: wrk isn't installed; install the system's package wrk", file=sys.stderr)
        return 2
    bundle = Path(find_bundle(given.bundle, PROJECT / "results"))
    network = open_model(str(bundle))
    images = sample_images(MANY)
    measured: dict[str, dict[str, Any]] = {}
    failed: list[str] = []
    with tempfile.TemporaryDirectory(
        prefix="bench-", dir=_short_directory(), ignore_cleanup_errors=True
    ) as directory:
        bench = Bench(bundle, venvs, given.seconds, Path(directory), images, network(images)[0])
        limits = None if given.soak_only else matrix_limits(bench)
        for name in () if given.soak_only else given.only:
            began = time.perf_counter()
            try:
                measured[name] = measure(SERVERS[name], bench)
            except (RuntimeError, OSError, ValueError) as error:
                failed.append(name)  # the minutes spent on the others are not thrown away
                print(f"{name} could not be measured: {error}", file=sys.stderr, flush=True)
            print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        soaked = soak(bench, given.soak) if given.soak else None
    loads = {name: each["loads"] for name, each in measured.items()}
    figures = load_figures(loads, OURS, limits)
    if OURS in measured:
        figures.append(start_figure(measured[OURS]["start_seconds"]))
    if soaked is not None:
        figures += soak_figures(soaked)
    versions, machine = provenance.versions(), provenance.machine()
    _write(
        given.out,
        {
            "measured": provenance.now(),
            "bundle": network.served.facts(),
            "seconds": given.seconds,
            "machine": machine,
            "versions": versions | {each: SERVERS[each].packages for each in loads},
            "source": provenance.source(),
            "figures": [figure.to_json() for figure in figures],
            "failed": failed,
            "limits": limits,
            "servers": measured,
            # Growth is among the figures, where it may be unknown.
            "soak": soaked
            and {name: each for name, each in soaked.items() if not name.startswith("growth")},
        },
    )
    _print(loads, figures, machine, versions, given.seconds, provenance.now())
    return 1 if failed else 0


def _print(
    loads: Mapping[str, Any],
    figures: list[Figure],
    machine: Mapping[str, Any],
    versions: Mapping[str, Any],
    seconds: float,
    now: str,
) -> None:
    print(
        f"{machine['cpus']} CPUs ({machine['processor']}), torch {versions['torch']}, "
        f"ray {versions['ray']}, Python {versions['python']}; {seconds:g} s each; {now}\n"
    )
    if loads:
        print(render_loads(loads, {name: server.label for name, server in SERVERS.items()}))
        print()
    print(render(figures))


def _short_directory() -> str | None:
    return "/tmp" if len(tempfile.gettempdir()) > _LONGEST_TEMPORARY else None


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def main() -> None:
    sys.path.insert(0, str(PROJECT))  # a checkout need not be installed
    from distributed_fmlp.command_line import OneLineParser, number
    from distributed_fmlp.errors import UserError

    parser = OneLineParser(
        description=__doc__.splitlines()[0] if __doc__ else None, allow_abbrev=False
    )
    parser.add_argument("--bundle", help="a bundle, a run, or a run's name (default: the newest)")
    parser.add_argument(
        "--seconds",
        type=number(lambda value: value > 0, "seconds above 0"),
        default=10.0,
        help="length of each load (default: 10)",
    )
    parser.add_argument(
        "--only", nargs="+", choices=list(SERVERS), default=list(SERVERS), help="what to measure"
    )
    parser.add_argument(
        "--soak",
        type=number(lambda value: value >= 0, "seconds, 0 for none"),
        default=0.0,
        metavar="SECONDS",
        help="load this service for so long",
    )
    parser.add_argument("--soak-only", action="store_true", help="nothing but the soak")
    parser.add_argument(
        "--prepare", action="store_true", help="install the rivals and measure nothing"
    )
    parser.add_argument(
        "--venvs",
        type=Path,
        default=HERE / ".venvs",
        help="where the rivals are installed (default: benchmarks/.venvs)",
    )
    parser.add_argument("--out", type=Path, default=HERE / "serving.json", help="the JSON file")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that servers are stopped too
    try:
        sys.exit(run(parser.parse_args()))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
