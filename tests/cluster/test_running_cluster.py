"""The doctor on clusters that really run: one that is well, and several that aren't."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import distributed_fmlp

ROOT = Path(distributed_fmlp.__file__).parents[1]
SCRIPT = Path(__file__).with_name("small_cluster.py")
GOOD = "127.0.0.3"
CLOCK = """
import time as _time
_true = _time.time
_time.time = lambda: _true() + 90
"""
# A process that is killed as soon as it is asked for the time.
LOST = """
import os as _os, signal as _signal, sys as _sys, time as _time
_true = _time.time
def _asked():
    caller = _sys._getframe(1)
    if caller.f_code.co_name == "clock" and "node_facts" in caller.f_code.co_filename:
        _os.kill(_os.getpid(), _signal.SIGKILL)
    return _true()
_time.time = _asked
"""


class SmallCluster:
    """A head, to which nodes are added."""

    def __init__(self, directory: Path, temporary: Path, auth_mode: str = "token") -> None:
        self.storage = directory / "storage"
        self.storage.mkdir()
        self.directory = directory
        self.token = secrets.token_hex(32)
        self.environment = {
            **{key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ},
            "HOME": str(directory),
            "RAY_TMPDIR": str(temporary),  # short: sockets lie below it
            "RAY_AUTH_MODE": auth_mode,
            "RAY_AUTH_TOKEN_PATH": str(directory / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        (directory / "token").write_text(self.token)
        (directory / "token").chmod(0o600)
        self.log = (directory / "cluster.log").open("w")
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT)],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        self.address = str(self._answer()["address"])

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise AssertionError(Path(self.log.name).read_text())

    def tell(self, **wanted: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(wanted) + "\n")
        self.process.stdin.flush()
        self._answer()

    @contextlib.contextmanager
    def node(self, address: str, **wanted: Any) -> Iterator[None]:
        self.tell(address=address, **wanted)
        try:
            yield
        finally:
            self.tell(remove=address)

    def doctor(self, *words: str) -> tuple[int, list[str], str]:
        done = subprocess.run(
            [sys.executable, "-m", "distributed_fmlp.doctor", "--address", self.address, *words],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=200,
        )
        print(done.stdout, done.stderr)
        assert self.token not in done.stdout + done.stderr
        return done.returncode, done.stdout.splitlines(), done.stderr

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(90)
        self.log.close()


@contextlib.contextmanager
def started(directory: Path, auth_mode: str = "token") -> Iterator[SmallCluster]:
    """A cluster of a head alone, ended and cleared away afterwards."""
    temporary = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    small = SmallCluster(directory, temporary, auth_mode)
    try:
        yield small
    finally:
        try:
            small.end()
        finally:
            if small.process.poll() is None:
                small.process.kill()
            shutil.rmtree(temporary, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallCluster]:
    """A head and one worker that are well."""
    with started(tmp_path_factory.mktemp("cluster")) as small:
        small.tell(address=GOOD)
        yield small


def failures(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("FAILED")]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_cluster_that_is_well_has_no_failure(cluster: SmallCluster) -> None:
    status, lines, errors = cluster.doctor("--storage", str(cluster.storage))
    assert failures(lines) == []
    assert errors == ""
    assert status == 0
    checks = {line.split()[1] for line in lines[:-1]}
    asked = {"Python", "Ray", "torch", "libraries", "package", "CPUs", "GPUs", "clock"}
    assert asked | {"disk", "memory", "storage", "data", "ports", "open", "token"} <= checks
    assert any("refuses whoever shows none" in line for line in lines)
    assert list(cluster.storage.iterdir()) == [], "nothing is left behind"


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_node_with_another_version_of_the_package_is_named(
    cluster: SmallCluster, tmp_path: Path
) -> None:
    other = tmp_path / "distributed_fmlp"
    shutil.copytree(ROOT / "distributed_fmlp", other, ignore=shutil.ignore_patterns("__pycache__"))
    init = other / "__init__.py"
    init.write_text(init.read_text().replace(distributed_fmlp.__version__, "0.0.9"))
    with cluster.node("127.0.0.4", env={"PYTHONPATH": str(tmp_path)}):
        status, lines, _ = cluster.doctor("--storage", str(cluster.storage))
    assert status == 1
    (line,) = failures(lines)
    assert line.split()[1] == "package"
    assert "127.0.0.4" in line
    assert "0.0.9" in line


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_node_whose_clock_is_off_is_named(cluster: SmallCluster, tmp_path: Path) -> None:
    # What Python there takes for the time; the machine's own clock is everyone's.
    (tmp_path / "sitecustomize.py").write_text(CLOCK)
    with cluster.node("127.0.0.5", env={"PYTHONPATH": str(tmp_path)}):
        status, lines, _ = cluster.doctor("--storage", str(cluster.storage))
    assert status == 1
    (line,) = failures(lines)
    assert line.split()[1] == "clock"
    assert "127.0.0.5" in line
    assert "90.0 s ahead" in line


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_node_that_is_lost_while_clocks_are_compared_is_named(
    cluster: SmallCluster, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(LOST)
    with cluster.node("127.0.0.8", env={"PYTHONPATH": str(tmp_path)}):
        status, lines, errors = cluster.doctor("--storage", str(cluster.storage))
    assert (status, errors) == (1, "")
    found = {line.split()[1]: line for line in failures(lines)}
    assert found.keys() <= {"answer", "storage"}
    assert "127.0.0.8" in found["answer"]


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
def test_full_disks_and_a_storage_that_is_not_shared_are_named(cluster: SmallCluster) -> None:
    place = cluster.directory / "mounted"
    place.mkdir()
    apart, full = "127.0.0.6", "127.0.0.7"
    with (
        cluster.node(apart, mounts={str(place): "64m"}, env={"HOME": str(place)}),
        cluster.node(full, mounts={str(place): "4k"}),
    ):
        status, lines, _ = cluster.doctor("--storage", str(place))
    assert status == 1
    found = {(line.split()[1], address): line for line in failures(lines)
             for address in (apart, full) if address in line}  # fmt: skip
    assert found.keys() == {("disk", apart), ("storage", apart), ("storage", full)}
    assert len(found) == len(failures(lines))
    assert "of its own" in found["storage", apart]
    assert "can't write" in found["storage", full]


def refused_with_token(cluster: SmallCluster, path: str) -> str:
    """What the doctor says on standard error, refused with the token in that file."""
    environment = {**cluster.environment, "RAY_AUTH_TOKEN_PATH": path}
    cluster.environment, kept = environment, cluster.environment
    try:
        status, lines, errors = cluster.doctor()
    finally:
        cluster.environment = kept
    assert (status, lines) == (2, [])
    return errors


@pytest.mark.slow
def test_without_the_token_nobody_is_let_in(cluster: SmallCluster) -> None:
    assert len(refused_with_token(cluster, "/dev/null").strip().splitlines()) == 1


@pytest.mark.slow
def test_another_token_is_named_as_what_is_wrong(cluster: SmallCluster, tmp_path: Path) -> None:
    other = tmp_path / "token"
    other.write_text("0" * 64)
    (line,) = refused_with_token(cluster, str(other)).splitlines()
    assert line.startswith(f"error: the cluster at {cluster.address} refuses this machine's token")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_cluster_that_asks_for_no_token_is_told_so(tmp_path: Path) -> None:
    with started(tmp_path, "disabled") as small:
        status, lines, _ = small.doctor()
    assert status == 1
    (line,) = failures(lines)
    assert line.split()[1] == "token"
    assert "lets in whoever reaches it" in line


def test_no_cluster_is_one_line_and_status_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "distributed_fmlp.doctor", "--address", "127.0.0.1:1"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
