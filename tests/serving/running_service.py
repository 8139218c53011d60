"""Runs the real service in a session of its own, and sees to it that nothing of it is left."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch.nn import functional

import distributed_fmlp
from distributed_fmlp.architecture import Architecture
from distributed_fmlp.bundle import write_bundle
from distributed_fmlp.data import load_dataset, measure_scaling
from distributed_fmlp.model import build_model, scale_pixels

ROOT = Path(distributed_fmlp.__file__).parents[1]
PATIENCE = 180.0  # s; a machine may have much else to do
OCTETS = {"Content-Type": "application/octet-stream"}
PROBABILITY_TOLERANCE = 1e-5


# --- bundles


def make_bundle(path: Path, seed: int, steps: int) -> Path:
    """A bundle of Architecture 2, trained on digits for `steps` steps: 0 leave it as good as blind.

    Two seeds give two models whose probabilities differ on every image.
    """
    digits = load_dataset("digits")
    scaling = measure_scaling(digits.train_images)
    architecture = Architecture(dropout=(0.0,) * 4)
    torch.manual_seed(seed)
    model = build_model(architecture, seed)
    optimizer = torch.optim.Adam(model.parameters(), 0.001)
    draw = np.random.default_rng(seed)
    model.train()
    for _ in range(steps):
        rows = draw.choice(len(digits.train_labels), 128)
        pixels = scale_pixels(torch.from_numpy(digits.train_images[rows]), scaling)
        loss = functional.cross_entropy(model(pixels), torch.from_numpy(digits.train_labels[rows]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    manifest = {
        "run": f"run-{seed}",
        "trial_id": f"lr_0.001_seed_{seed}",
        "created": "2026-11-20T10:00:00+00:00",
        "architecture": architecture.to_json(),
        "hyperparameters": {"learning_rate": 0.001, "batch_size": 128, "epochs": 3},
        "seed": seed,
        "epoch": 3,
        "scaling": {"mean": scaling.mean, "std": scaling.std},
        "class_names": list(digits.class_names),
        "metrics": {"val_accuracy": 0.91, "test_accuracy": 0.9},
        "dataset": {"name": "digits", "sha256": digits.sha256},
        "source": {"commit": "c0ffee" * 6, "dirty": False},
    }
    return write_bundle(path, model.state_dict(), manifest).path


# --- processes


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def outward_address() -> str | None:
    """An IPv4 address of this machine that isn't loopback, if it has one."""
    for addresses in psutil.net_if_addrs().values():
        for each in addresses:
            if each.family == socket.AF_INET and not each.address.startswith("127."):
                return each.address
    return None


def environment(home: Path, **more: str) -> dict[str, str]:
    """The environment of these tests, without what would change how a service starts."""
    dropped = ("RAY_", "FMLP_API_TOKEN", "TUNE_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**kept, "HOME": str(home), "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **more}


class Command:
    """A command in a session of its own, while it goes on."""

    def __init__(self, words: Sequence[str], cwd: Path, env: Mapping[str, str]) -> None:
        self.lines: list[str] = []
        self._news = threading.Condition()
        self.process = subprocess.Popen(
            words,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._family: dict[int, psutil.Process] = {}

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()

    @property
    def said(self) -> str:
        return "".join(self.lines)

    def wait_for(self, wanted: str) -> str:
        """The first line, past or to come, in which the pattern `wanted` is found."""
        until = time.monotonic() + PATIENCE
        with self._news:
            while time.monotonic() < until:
                for line in list(self.lines):
                    if re.search(wanted, line):
                        return line
                if self.process.poll() is not None and not self._reader.is_alive():
                    break
                self._news.wait(0.2)
        raise AssertionError(f"{wanted!r} never came; status {self.process.poll()}\n{self.said}")

    def family(self) -> list[psutil.Process]:
        """The command's process and all that came of it, remembered once seen."""
        try:
            leader = psutil.Process(self.process.pid)
            for each in (leader, *leader.children(recursive=True)):
                self._family[each.pid] = each
        except psutil.NoSuchProcess:
            pass
        return [each for each in self._family.values() if _runs(each)]

    def finish(self, patience: float = PATIENCE) -> int:
        try:
            status = self.process.wait(patience)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it goes on and on\n{self.said}") from None
        self._reader.join(30)
        return status

    def destroy(self) -> None:
        """End what is left, whatever it is."""
        for each in self.family():
            if _runs(each):
                each.kill()
        self.process.wait(30)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(processes: Sequence[psutil.Process], seconds: float = 15.0) -> list[psutil.Process]:
    """Those that still run after that long at most."""
    until = time.monotonic() + seconds
    left = [each for each in processes if _runs(each)]
    while left and time.monotonic() < until:
        time.sleep(0.1)
        left = [each for each in left if _runs(each)]
    return left


def listening_addresses(processes: Sequence[psutil.Process]) -> set[tuple[str, int]]:
    """Every TCP address that one of the processes listens at."""
    found = set()
    for process in processes:
        try:
            connections = process.net_connections(kind="tcp")
        except psutil.NoSuchProcess:
            continue
        for connection in connections:
            if connection.status == psutil.CONN_LISTEN:
                found.add((connection.laddr.ip, connection.laddr.port))
    return found


# --- requests


@dataclass
class Reply:
    """One answer, read to its end."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes
    seconds: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def version(self) -> str | None:
        return self.headers["X-FMLP-Model-Version"]

    @property
    def probabilities(self) -> NDArray[np.float32]:
        rows = [list(each["probabilities"].values()) for each in self.json["predictions"]]
        return np.array(rows, dtype=np.float32)


def assert_error(reply: Reply, status: int, *, server: str | None = None) -> str:
    assert reply.status == status, reply.body
    assert reply.headers["Content-Type"] == "application/json"
    said: str = reply.json["error"]
    assert said and set(reply.json) == {"error"}
    assert reply.headers["Server"] == server
    for secret in ("Traceback", "/work", "site-packages", "Ray", "ray", "HAProxy", "uvicorn"):
        assert secret not in reply.body.decode()
    return said


class Connection:
    """A client's connection, kept open from request to request."""

    def __init__(
        self, port: int, token: str | None = None, timeout: float = 60, host: str = "127.0.0.1"
    ) -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=timeout)
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        self.send(method, path, body, headers)
        return self.receive()

    def send(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> None:
        self._began = time.perf_counter()
        self._connection.request(method, path, body, {**self._headers, **(headers or {})})

    def receive(self) -> Reply:
        answer = self._connection.getresponse()
        content = answer.read()
        return Reply(answer.status, answer.headers, content, time.perf_counter() - self._began)

    def predict(self, images: NDArray[np.uint8], path: str = "/predict") -> Reply:
        return self.ask("POST", path, images.tobytes(), OCTETS)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class Service:
    """A service that answers at `port`."""

    command: Command
    port: int
    cwd: Path
    env: dict[str, str]
    token: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self, timeout: float = 60) -> Connection:
        return Connection(self.port, self.token, timeout)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        with self.connect() as connection:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return connection.ask(method, path, body, named)

    def admin(self, verb: str, **body: Any) -> Reply:
        sent = json.dumps(body)
        return self.ask("POST", f"/admin/{verb}", sent, Content_Type="application/json")

    def cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A subcommand of the command line, said to this service."""
        return subprocess.run(
            [sys.executable, "-m", "distributed_fmlp.serve", *words, "--url", self.url],
            cwd=self.cwd,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    @property
    def version(self) -> str:
        version: str = self.ask("GET", "/model").json["version"]
        return version

    def replica_process(self) -> psutil.Process:
        """The replica that computes: the one whose name Ray gives as a replica of `fmlp`."""
        for process in self.command.family():
            if "ServeReplica:fmlp:fmlp" in " ".join(process.cmdline()):
                return process
        raise AssertionError("there is no replica")


@contextmanager
def running_service(
    directory: Path, *words: str, token: str | None = None, **environ: str
) -> Iterator[Service]:
    """`python -m distributed_fmlp.serve WORDS --port …`, answering; ended at last."""
    cwd, home = directory / "work", directory / "home"
    cwd.mkdir()
    home.mkdir()
    env = environment(home, **environ)
    port = free_port()
    command = Command(
        [sys.executable, "-m", "distributed_fmlp.serve", *words, "--port", str(port)], cwd, env
    )
    try:
        command.wait_for("Ctrl-C stops it")
        command.family()
        yield Service(command, port, cwd, env, token)
        command.family()
        if command.process.poll() is None:
            command.process.send_signal(signal.SIGTERM)
            command.finish(60)
    finally:
        command.destroy()


# --- load


@dataclass
class Load:
    """What several clients saw of a service, each with a connection of its own."""

    expected: Mapping[str, NDArray[np.float32]]  # by version, of `images`
    images: NDArray[np.uint8]
    sent: int = 0
    failed: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    refused: int = 0  # 503 with Retry-After and a reason, where `may_refuse`
    answers: dict[str, int] = field(default_factory=dict)  # by version
    seconds: list[float] = field(default_factory=list)
    token: str | None = None
    begun: list[tuple[float, str]] = field(default_factory=list)  # time.monotonic(), and by version

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._lock = threading.Lock()

    @contextmanager
    def on(self, port: int, connections: int, *, may_refuse: bool = False) -> Iterator[None]:
        """Requests without a pause while the block runs."""
        threads = [
            threading.Thread(target=self._work, args=(port, place, may_refuse))
            for place in range(connections)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(90)
            assert not any(thread.is_alive() for thread in threads), "a request never ended"

    def _work(self, port: int, place: int, may_refuse: bool) -> None:
        connection = Connection(port, self.token)
        row = place % len(self.images)
        while not self._stop.is_set():
            row = (row + 1) % len(self.images)
            reply, failure = None, None
            began = time.monotonic()
            try:
                reply = connection.predict(self.images[row : row + 1])
            except Exception as error:
                failure = repr(error)
                connection.close()
            with self._lock:
                self._count(reply, failure, row, may_refuse)
                if reply is not None and reply.status == 200:
                    self.begun.append((began, reply.version or ""))
        connection.close()

    def _count(self, reply: Reply | None, failure: str | None, row: int, may_refuse: bool) -> None:
        self.sent += 1
        if reply is None:
            self.failed.append(failure or "")
            return
        told_when = reply.headers["Retry-After"] is not None
        if reply.status == 503 and may_refuse and told_when and set(reply.json) == {"error"}:
            self.refused += 1
            return
        if reply.status != 200:
            self.failed.append(f"{reply.status} {reply.body[:200]!r}")
            return
        self.seconds.append(reply.seconds)
        version = reply.version or ""
        self.answers[version] = self.answers.get(version, 0) + 1
        told = reply.json["model"]["version"]
        wanted = self.expected.get(version)
        if (
            wanted is None
            or told != version
            or not np.allclose(reply.probabilities[0], wanted[row], atol=PROBABILITY_TOLERANCE)
        ):
            self.mixed.append(f"{version} (body {told}): {reply.probabilities[0]}")

    def percentile(self, share: float) -> float:
        """Seconds within which that share of the requests was answered."""
        return float(np.quantile(self.seconds, share)) if self.seconds else float("nan")

    def figures(self) -> str:
        return (
            f"{self.sent} requests sent, {len(self.failed)} failed, {len(self.mixed)} mixed, "
            f"{self.refused} refused (503); answered by version {self.answers}; "
            f"p50 {1000 * self.percentile(0.5):.1f} ms, p99 {1000 * self.percentile(0.99):.1f} ms"
        )
