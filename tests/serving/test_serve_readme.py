"""Every command in serve/README.md works: each is run here or where the table says."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from distributed_fmlp.serving import haproxy
from tests.serving.conftest import Bundles
from tests.serving.running_service import (
    ROOT,
    Command,
    Connection,
    environment,
    free_port,
    gone,
    listening_addresses,
)
from tests.serving.shell import with_programs
from tests.synthetic_run import make_run

README = (ROOT / "serve" / "README.md").read_text(encoding="utf-8")
ROOT_README = (ROOT / "README.md").read_text(encoding="utf-8")
IMAGES = np.random.default_rng(10).integers(0, 256, (4, 784), dtype=np.uint8)
WAIT = 120.0  # s

HERE = "test_on_this_machine_the_commands_serve_and_ctrl_c_ends_all_of_it"
ON_A_CLUSTER = "test_serve_config.py: a Ray started by hand, with ports and files of its own"
# Each command, and what runs it.
COMMANDS = {
    ". serve/throughput.sh": HERE,
    "serve run serve/config.yaml": HERE,
    "ray start --head --node-ip-address 127.0.0.1": ON_A_CLUSTER,
    "ray stop": "nothing: it ends every Ray of the machine's",
    "export RAY_DASHBOARD_ADDRESS=http://HEAD:8265": ON_A_CLUSTER,
    "serve deploy serve/config.yaml": ON_A_CLUSTER,
    "serve status": ON_A_CLUSTER,
    ". serve/throughput.sh 8000": ON_A_CLUSTER,
    "ray start --head": ON_A_CLUSTER,
    "export RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH="
    "distributed_fmlp.serving.shortcut.middlewares": "test_service.py: launch.py sets the same",
    "python -m distributed_fmlp.serve status": "test_service.py",
    "python -m distributed_fmlp.serve promote RUN_OR_BUNDLE": "test_service.py",
    "python -m distributed_fmlp.serve rollback": "test_service.py",
}  # fmt: skip


def blocks(text: str) -> list[list[str]]:
    """The commands of each block for a shell, without their comments."""
    found = re.findall(r"^```sh\n(.*?)^```", text, flags=re.M | re.S)
    stripped = [[re.sub(r"\s+#.*", "", line) for line in block.splitlines()] for block in found]
    return [[line for line in block if line and not line.startswith("#")] for block in stripped]


def test_every_command_is_accounted_for() -> None:
    assert {line for block in blocks(README) for line in block} == set(COMMANDS)


def test_both_readmes_say_the_same_of_this_machine() -> None:
    section = README.split("## On this machine\n")[1]
    assert blocks(section)[0] in blocks(ROOT_README)


@pytest.fixture
def workplace(tmp_path: Path, bundles: Bundles) -> Iterator[tuple[Path, int, dict[str, str]]]:
    """A directory that has serve/ and results/, the port that the file names, and an environment.

    The file names another port, and a Ray that runs already is out of sight: no other changes.
    """
    run = make_run(tmp_path / "results" / "newest", rates=(0.001,), images=20)
    shutil.copytree(bundles.first, run / "bundle")
    shutil.copytree(ROOT / "serve", tmp_path / "serve")
    file = tmp_path / "serve" / "config.yaml"
    content = yaml.safe_load(file.read_text())
    content["http_options"]["port"] = port = free_port()
    file.write_text(yaml.safe_dump(content))
    (tmp_path / "home").mkdir()
    with tempfile.TemporaryDirectory(prefix="r-", dir="/tmp", ignore_cleanup_errors=True) as short:
        places = {"RAY_TMPDIR": short, "TMPDIR": short}
        env = environment(tmp_path / "home", RAY_USAGE_STATS_ENABLED="0", **places)
        yield tmp_path, port, with_programs(env)


def wait_until_ready(command: Command, port: int) -> None:
    until = time.monotonic() + WAIT
    while time.monotonic() < until:
        assert command.process.poll() is None, command.said
        try:
            with Connection(port, timeout=5) as connection:
                if connection.ask("GET", "/v2/health/ready").status == 200:
                    return
        except OSError:
            pass
        time.sleep(0.3)
    raise AssertionError(f"it was not ready in time\n{command.said}")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_on_this_machine_the_commands_serve_and_ctrl_c_ends_all_of_it(
    workplace: tuple[Path, int, dict[str, str]], bundles: Bundles
) -> None:
    directory, port, env = workplace
    lines = blocks(README.split("## On this machine\n")[1])[0]
    command, place = Command(["bash", "-c", "\n".join(lines)], directory, env), None
    try:
        wait_until_ready(command, port)
        family = command.family()
        with Connection(port) as connection:
            reply = connection.predict(IMAGES)
            assert (reply.status, reply.version) == (200, bundles.version(bundles.first))
        # One that HAProxy's next configuration has replaced may just have ended.
        servers = haproxies(command) if haproxy.available() else []
        assert {host for host, _ in listening_addresses(servers)} <= {"127.0.0.1"}
        (replica,) = [each for each in family if "ServeReplica:fmlp:fmlp" in _words(each)]
        place = replica.environ().get("RAY_SERVE_HAPROXY_CONFIG_FILE_LOC")
        for port_here in own_http_ports(replica) | {port}:
            with Connection(port_here) as connection:
                reply = connection.ask("GET", "/-/routes")
                assert (reply.status, set(reply.json)) == (404, {"error"})
        os.killpg(command.process.pid, signal.SIGINT)
        command.finish(90)
        assert gone(family, 30) == []
    finally:
        command.destroy()
        if place is not None:
            shutil.rmtree(Path(place).parent, ignore_errors=True)


def haproxies(command: Command) -> list[psutil.Process]:
    """Those that run; for a moment, while a new one starts, it may be none."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        found = [each for each in command.family() if "/haproxy -" in _words(each)]
        if any(listening_addresses([each]) for each in found):
            return found
        time.sleep(0.2)
    raise AssertionError([_words(each) for each in command.family()])


def own_http_ports(replica: psutil.Process) -> set[int]:
    """Where it answers HTTP itself, behind HAProxy alone; it says so on loopback."""
    ports = {port for host, port in listening_addresses([replica]) if host == "127.0.0.1"}
    assert bool(ports) == haproxy.available()
    return ports


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
