"""The service on a cluster: two replicas on two hosts, and hosts that are lost."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.fs
import pytest
import yaml

from cluster.conftest import Figures
from cluster.hosts import ROOT
from cluster.real_cluster import SERVICE_PORT, RealCluster, wait_until
from cluster.s3_server import S3Server
from cluster.serving_load import Load, told
from cluster.sweeping import Tune

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(500)]


class Service:
    """What an operator asks of the service, over HTTP as anybody would."""

    def __init__(self, cluster: RealCluster, bundles: list[str]) -> None:
        self.cluster = cluster
        self.bundles = bundles
        self.url = f"http://{cluster.head.address}:{SERVICE_PORT}"

    def ask(self, path: str, body: Any = None, seconds: float = 90) -> tuple[int, Any]:
        request = urllib.request.Request(self.url + path)
        request.add_header("Authorization", f"Bearer {self.cluster.api_token}")
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=seconds) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null")
        except OSError as error:
            return 0, str(error)

    def promote(self, bundle: str) -> tuple[int, Any]:
        return self.ask("/admin/promote", {"bundle": bundle, "allowed_accuracy_drop": 1.0})

    def replicas(self) -> dict[str, str]:
        """The version that each host's replica serves."""
        status, answer = self.ask("/admin/status", seconds=10)
        if status != 200:
            return {}
        return {replica["node"]: replica["version"] for replica in answer["replicas"]}

    def wait_for_both(self) -> float:
        return wait_until(lambda: set(self.replicas()) == {"w1", "w2"}, 180, "a replica on each")

    def load(self) -> Load:
        return Load(self.cluster.head.address, SERVICE_PORT, self.cluster.api_token)


@pytest.fixture(scope="module")
def service(cluster: RealCluster, s3: S3Server, figures: Figures) -> Iterator[Service]:
    """Two replicas, each on a worker, serving a bundle that each has read from the storage."""
    head = cluster.head
    filesystem = pyarrow.fs.S3FileSystem(
        access_key="test-key", secret_key="test-secret-never-in-a-log", region="us-east-1",
        scheme="http", endpoint_override=s3.url.removeprefix("http://"),
    )  # fmt: skip
    bundles = []
    for rate in ("0.01", "0.003"):
        name = f"bundle-{rate}"
        # A private Ray on the laptop: the models are what is wanted, not another sweep.
        Tune(cluster.laptop, f"--dataset digits --epochs 1 --lr {rate} --name {name}").end()
        made: Path = cluster.laptop.home / "results" / name / "bundle"
        target = f"fmlp/bundles/{name}"
        filesystem.create_dir(target)
        pyarrow.fs.copy_files(str(made), target, destination_filesystem=filesystem)
        bundles.append(s3.uri(f"bundles/{name}"))
    config = yaml.safe_load((ROOT / "serve" / "config.yaml").read_text())
    config["http_options"]["host"] = "0.0.0.0"
    (application,) = config["applications"]
    application["args"] |= {"bundle": bundles[0], "token_file": "~/.fmlp_api_token"}
    (deployment,) = [each for each in application["deployments"] if each["name"] == "fmlp"]
    del deployment["autoscaling_config"]
    deployment["num_replicas"] = 2
    deployment["ray_actor_options"]["resources"] = {"worker": 0.6}
    (head.home / "service.yaml").write_text(yaml.safe_dump(config))
    started = time.monotonic()
    head.run("serve deploy ~/service.yaml")
    made_service = Service(cluster, bundles)
    made_service.wait_for_both()
    figures(f"serve deploy: two replicas on two hosts after {time.monotonic() - started:.0f} s")
    yield made_service
    head.run("serve shutdown --yes", check=False)


@pytest.mark.parametrize("fault", ["killed", "cut off"])
def test_a_host_is_lost_under_load(
    fault: str, service: Service, cluster: RealCluster, figures: Figures
) -> None:
    worker = cluster.workers[0] if fault == "killed" else cluster.workers[1]
    load = service.load()
    time.sleep(5)
    lost = time.monotonic()
    if fault == "killed":
        worker.power_off()
    else:
        worker.cut_off()
    try:
        time.sleep(25)
    finally:
        if fault == "killed":
            worker.power_on()
        else:
            worker.mend()
        answers = load.end()
    figures(f"a host of two is {fault} under load: {told(answers, lost)}")
    cluster.wait_for_nodes()
    figures(f"a host that was {fault}: its replica is back {service.wait_for_both():.0f} s later")
    assert len(answers) > 200
    assert not [each for each in answers if each.sent > lost + 10 and each.status != 200]
    assert not [each for each in answers if each.after_retry != 200]


def test_a_promotion_changes_every_replica_over_and_fails_no_request(
    service: Service, figures: Figures
) -> None:
    before = set(service.replicas().values())
    load = service.load()
    time.sleep(3)
    began = time.monotonic()
    status, answer = service.promote(service.bundles[1])
    promoted = time.monotonic()
    assert status == 200, answer
    time.sleep(3)
    answers = load.end()
    (after,) = set(service.replicas().values())
    assert {after} != before
    assert not [each for each in answers if each.status != 200]
    assert {each.version for each in answers} == {after, *before}
    assert {each.version for each in answers if each.sent > promoted} == {after}
    assert {each.version for each in answers if each.ended < began} == before
    figures(f"promote: {promoted - began:.1f} s; {told(answers, began)}")


def test_a_promotion_with_a_host_cut_off_is_everywhere_or_undone(
    service: Service, cluster: RealCluster, figures: Figures
) -> None:
    (before,) = set(service.replicas().values())
    cluster.workers[1].cut_off()
    began = time.monotonic()
    try:
        status, answer = service.promote(service.bundles[0])
        seconds = time.monotonic() - began
        time.sleep(20)
    finally:
        cluster.workers[1].mend()
    cluster.wait_for_nodes()
    service.wait_for_both()
    (after,) = set(service.replicas().values())
    assert (status == 200) == (after != before), (status, answer, before, after)
    how = "everywhere" if after != before else "undone"
    figures(f"promote with a host cut off: {how} ({status}) after {seconds:.1f} s")
