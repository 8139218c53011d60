"""serve/config.yaml through Ray's own tools, and a redeployment of it under load."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from distributed_fmlp.serving import haproxy
from distributed_fmlp.serving.settings import ServiceArguments
from tests.serving.conftest import Bundles
from tests.serving.running_service import (
    ROOT,
    Command,
    Connection,
    Load,
    environment,
    free_port,
    listening_addresses,
    outward_address,
)
from tests.serving.shell import source_settings
from tests.synthetic_run import make_run

CONFIG = ROOT / "serve" / "config.yaml"
IMAGES = np.random.default_rng(6).integers(0, 256, (16, 784), dtype=np.uint8)


def config() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    return content


# --- the file


def test_ray_takes_the_file_and_knows_every_key_in_it() -> None:
    from ray.serve.schema import ServeDeploySchema

    parsed = ServeDeploySchema.model_validate(config())
    known = parsed.model_dump(exclude_unset=True, mode="json")
    assert set(known) == set(config())  # a key that Ray doesn't know would be dropped in silence
    application = config()["applications"][0]
    assert set(known["applications"][0]) == set(application)
    for said, understood in zip(
        application["deployments"], known["applications"][0]["deployments"], strict=True
    ):
        assert set(said) == set(understood)


def test_it_listens_on_loopback() -> None:
    assert config()["http_options"]["host"] == "127.0.0.1"


def test_its_arguments_are_the_services_and_their_defaults_what_it_says() -> None:
    args = config()["applications"][0]["args"]
    assert ServiceArguments(**args) == ServiceArguments()
    left_out = set(ServiceArguments.model_fields) - set(args)
    assert left_out == {"replicas", "gpus_per_replica", "allowed_hosts", "insecure"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_batch", 3),
        ("max_batch_size", 0),
        ("max_batch_size", "many"),
        ("batch_wait_ms", -1),
        ("batch_wait_ms", float("nan")),
        ("replicas", 0),
        ("deadline_s", 0),
        ("bundle", 3),
        ("max_body_bytes", 1),
    ],
)
def test_an_argument_that_is_unknown_or_can_not_be_used_is_refused_by_name(
    name: str, value: Any
) -> None:
    with pytest.raises(ValidationError) as caught:
        ServiceArguments(**{name: value})
    assert name in str(caught.value)


# --- Ray's tools


@dataclass
class Cluster:
    """A Ray of one node, started by hand as one is on a cluster."""

    directory: Path
    env: dict[str, str]
    http_port: int
    gcs_port: int
    dashboard_port: int
    command: Command

    def written(self, name: str, change: Any = None, **args: Any) -> Path:
        """A copy of the file with another port, and arguments replaced."""
        content = config()
        content["http_options"]["port"] = self.http_port
        content["applications"][0]["args"] |= args
        if change is not None:
            change(content)
        path = self.directory / name
        path.write_text(yaml.safe_dump(content))
        return path

    def serve(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [serve_program(), *words, "--address", f"http://127.0.0.1:{self.dashboard_port}"],
            cwd=self.directory,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def application(self) -> dict[str, Any]:
        """What `serve status` would say of it, without the seconds that it takes to start."""
        url = f"http://127.0.0.1:{self.dashboard_port}/api/serve/applications/"
        with urllib.request.urlopen(url, timeout=60) as answer:
            application: dict[str, Any] = json.load(answer)["applications"]["fmlp"]
            return application

    def wait_until(self, status: str) -> dict[str, Any]:
        until = time.monotonic() + 180
        while time.monotonic() < until:
            application = self.application()
            if application["status"] == status:
                return application
            time.sleep(0.2)
        raise AssertionError(application)


def serve_program() -> str:
    return str(Path(sys.executable).with_name("serve"))


@contextmanager
def cluster(directory: Path) -> Iterator[Cluster]:
    http_port, gcs_port, dashboard_port = (free_port() for _ in range(3))
    env = environment(directory / "home", RAY_USAGE_STATS_ENABLED="0")
    done, env = source_settings(str(http_port), env)
    assert done.returncode == 0, done.stderr
    for name in ("home", "work"):
        (directory / name).mkdir()
    with tempfile.TemporaryDirectory(prefix="r-", dir="/tmp", ignore_cleanup_errors=True) as short:
        start = [
            str(Path(sys.executable).with_name("ray")), "start", "--head", "--block",
            "--node-ip-address", "127.0.0.1", "--port", str(gcs_port),
            "--include-dashboard", "true", "--dashboard-host", "127.0.0.1",
            "--dashboard-port", str(dashboard_port), "--temp-dir", short,
            "--num-cpus", "3", "--object-store-memory", "100000000",
        ]  # fmt: skip
        command = Command(start, directory / "work", env)
        try:
            command.wait_for("Ray runtime started")
            yield Cluster(directory, env, http_port, gcs_port, dashboard_port, command)
        finally:
            command.destroy()
            for name in ("RAY_SERVE_HAPROXY_CONFIG_FILE_LOC",):
                if name in env:
                    shutil.rmtree(Path(env[name]).parent, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_serve_run_deploys_the_file_and_serve_deploy_changes_it_without_a_failed_request(
    tmp_path: Path, bundles: Bundles, tell: Callable[[str], None]
) -> None:
    expected = bundles.probabilities(IMAGES)
    first, second = map(bundles.version, (bundles.first, bundles.second))
    with cluster(tmp_path) as ray:
        run = make_run(tmp_path / "work" / "results" / "newest", rates=(0.001,), images=20)
        shutil.copytree(bundles.first, run / "bundle")
        words = [serve_program(), "run", str(ray.written("config.yaml"))]
        words += ["--address", f"127.0.0.1:{ray.gcs_port}"]
        serving = Command(words, tmp_path / "work", ray.env)
        try:
            serving.wait_for("Submitted deploy config successfully")
            ray.wait_until("RUNNING")
            # Where Ray's own processes listen is for who started it to say.
            proxies = [each for each in ray.command.family() if "haproxy" in each.name()]
            listening = {address for address, _ in listening_addresses(proxies)}
            assert listening <= {"127.0.0.1"} and bool(proxies) == haproxy.available()
            check_redeployment(ray, bundles, expected, first, second, tell)
            check_refusal(ray, second)
            serving.process.send_signal(signal.SIGINT)
            serving.finish(90)
        finally:
            serving.destroy()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_beyond_loopback_it_needs_a_token_or_a_word_and_nobody_administers_without_a_token(
    tmp_path: Path, bundles: Bundles
) -> None:
    address = outward_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")

    def everywhere(content: dict[str, Any]) -> None:
        content["http_options"]["host"] = "0.0.0.0"

    with cluster(tmp_path) as ray:
        bundle = str(bundles.first)
        deployed = ray.serve("deploy", str(ray.written("open.yaml", everywhere, bundle=bundle)))
        assert deployed.returncode == 0, deployed.stderr
        message = ray.wait_until("DEPLOY_FAILED")["message"]
        assert "0.0.0.0 lets other machines in" in message and "insecure: true" in message
        args = {"bundle": bundle, "insecure": True}
        deployed = ray.serve("deploy", str(ray.written("insecure.yaml", everywhere, **args)))
        assert deployed.returncode == 0, deployed.stderr
        ray.wait_until("RUNNING")
        json_type = {"Content-Type": "application/json"}
        order = json.dumps({"bundle": str(bundles.second), "allowed_accuracy_drop": 1})
        for host in (address, "127.0.0.1"):
            with Connection(ray.http_port, host=host) as connection:
                assert connection.predict(IMAGES[:1]).status == 200
                for claimed in ("localhost", f"127.0.0.1:{ray.http_port}", address):
                    named = {"Host": claimed}
                    for reply in (
                        connection.ask("GET", "/admin/status", None, named),
                        connection.ask("POST", "/admin/promote", order, {**named, **json_type}),
                        connection.ask("POST", "/admin/rollback", "{}", {**named, **json_type}),
                    ):
                        assert reply.status == 403, reply.body
                        assert "FMLP_API_TOKEN" in reply.json["error"]
                assert connection.ask("GET", "/model").json["version"] == bundles.version(
                    bundles.first
                )


def check_redeployment(
    ray: Cluster,
    bundles: Bundles,
    expected: Any,
    first: str,
    second: str,
    tell: Callable[[str], None],
) -> None:
    """Other settings, then another bundle: new replicas, and no request fails."""
    load = Load(expected, IMAGES)
    figures = []

    def replica() -> str:
        with Connection(ray.http_port) as connection:
            status = connection.ask("GET", "/admin/status").json
        return ",".join(each["replica"] for each in status["replicas"])

    with Connection(ray.http_port) as connection:
        order = {"bundle": str(bundles.second), "allowed_accuracy_drop": 1}
        promoted = connection.ask(
            "POST", "/admin/promote", json.dumps(order), {"Content-Type": "application/json"}
        )
    assert promoted.status == 200, promoted.body
    with load.on(ray.http_port, connections=6):
        for name, args, serves in (
            # What was promoted goes on when settings change…
            ("settings.yaml", {"max_batch_size": 64}, second),
            # …and ends when the file names another bundle.
            ("bundle.yaml", {"bundle": str(bundles.first), "max_batch_size": 64}, first),
        ):
            before, began = replica(), time.monotonic()
            deployed = ray.serve("deploy", str(ray.written(name, **args)))
            assert deployed.returncode == 0, deployed.stderr
            until = time.monotonic() + 120
            while replica() in (before, "") or set(replica().split(",")) & set(before.split(",")):
                assert time.monotonic() < until, ray.application()
                time.sleep(0.2)
            ray.wait_until("RUNNING")
            figures.append(f"{time.monotonic() - began:.1f} s")
            with Connection(ray.http_port) as connection:
                assert connection.ask("GET", "/model").json["version"] == serves, name
    took = ", ".join(figures)
    tell(f"{len(figures)} redeployments under load, taking {took}: {load.figures()}")
    assert (load.failed, load.mixed) == ([], [])
    assert set(load.answers) == {first, second}


def check_refusal(ray: Cluster, second: str) -> None:
    """A file that can't be used is refused with its reason, and what was served goes on."""
    wrong = ray.written("wrong.yaml", max_batch=3)
    deployed = ray.serve("deploy", str(wrong))
    assert deployed.returncode == 0, deployed.stderr  # Ray only takes it; the status tells
    message = ray.wait_until("DEPLOY_FAILED")["message"]
    assert "max_batch" in message and "Extra inputs are not permitted" in message
    with Connection(ray.http_port) as connection:
        assert connection.predict(IMAGES[:1]).status == 200
