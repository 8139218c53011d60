"""The service on a cluster: two replicas on two hosts, and hosts that are lost."""

from __future__ import annotations

import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.fs
import pytest
import yaml

from cluster.conftest import Figures
from cluster.hosts import ROOT
from cluster.real_cluster import SERVICE_PORT, RealCluster, wait_until
from cluster.s3_server import S3Server
from cluster.serving_load import Load, failed, failed_for_who_tries_twice, told
from cluster.sweeping import Tune

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(500)]

# A lost connection, or HAProxy's word for that: who gets it doesn't know what became of the order.
UNKNOWN = (0, 502, 504)


class Service:
    """What an operator asks of the service, over HTTP as anybody would."""

    def __init__(self, cluster: RealCluster, bundles: dict[str, str]) -> None:
        """`bundles` are the addresses of those to serve, by version."""
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

    def promote_other(self, served: str) -> tuple[int, Any]:
        """Promote the bundle that isn't served."""
        (other,) = [where for version, where in self.bundles.items() if version != served]
        return self.promote(other)

    def replicas(self) -> dict[str, str]:
        """The version that each host's replica serves."""
        status, answer = self.ask("/admin/status", seconds=10)
        if status != 200:
            return {}
        return {replica["node"]: replica["version"] for replica in answer["replicas"]}

    def wait_for_both(self) -> float:
        return wait_until(lambda: set(self.replicas()) == {"w1", "w2"}, 180, "a replica on each")

    def load(self, clients: int = 6, pause: float = 0.02) -> Load:
        address, token = self.cluster.head.address, self.cluster.api_token
        return Load(address, SERVICE_PORT, token, clients, pause)

    def deploy(self, deployment: dict[str, Any]) -> None:
        """serve/config.yaml for every address, with the first bundle and this for its replicas."""
        config = yaml.safe_load((ROOT / "serve" / "config.yaml").read_text())
        config["http_options"]["host"] = "0.0.0.0"
        (application,) = config["applications"]
        application["args"] |= {
            "bundle": next(iter(self.bundles.values())),
            "token_file": "~/.fmlp_api_token",
        }
        (own,) = [each for each in application["deployments"] if each["name"] == "fmlp"]
        del own["autoscaling_config"]
        own |= deployment
        own["ray_actor_options"]["resources"] = {"worker": 0.6}
        (self.cluster.head.home / "service.yaml").write_text(yaml.safe_dump(config))
        self.cluster.head.run("serve deploy ~/service.yaml")


@pytest.fixture(scope="module")
def bundles(cluster: RealCluster) -> list[Path]:
    """Two, made on the laptop."""
    made = []
    for rate in ("0.01", "0.003"):
        # A private Ray on the laptop: the models are what is wanted, not another sweep.
        Tune(cluster.laptop, f"--dataset digits --epochs 1 --lr {rate} --name bundle-{rate}").end()
        made.append(cluster.laptop.home / "results" / f"bundle-{rate}" / "bundle")
    return made


@pytest.fixture(scope="module")
def stored(cluster: RealCluster, s3: S3Server, bundles: list[Path]) -> dict[str, str]:
    """Their addresses in the storage, by version."""
    filesystem = pyarrow.fs.S3FileSystem(
        access_key="test-key", secret_key="test-secret-never-in-a-log", region="us-east-1",
        scheme="http", endpoint_override=s3.url.removeprefix("http://"),
    )  # fmt: skip
    addresses = {}
    for made in bundles:
        name = made.parent.name
        filesystem.create_dir(f"fmlp/bundles/{name}")
        pyarrow.fs.copy_files(str(made), f"fmlp/bundles/{name}", destination_filesystem=filesystem)
        sha256: str = json.loads((made / "manifest.json").read_text())["weights"]["sha256"]
        addresses[sha256[:12]] = s3.uri(f"bundles/{name}")
    return addresses


def readme_commands(heading: str, *starts: str) -> list[str]:
    """The first lines of cluster/README.md after a heading that begin so."""
    text = (ROOT / "cluster" / "README.md").read_text().partition(f"\n{heading}\n")[2]
    assert text
    return [next(line for line in text.splitlines() if line.startswith(start)) for start in starts]


def test_the_readmes_commands_deploy_it_on_machines_that_are_there(
    cluster: RealCluster, bundles: list[Path], figures: Figures
) -> None:
    shutil.copytree(bundles[0], cluster.head.home / "results" / "first" / "bundle")
    deploy, shut_down = readme_commands(
        "## Machines that are there already",
        "ray exec cluster/onprem.yaml 'cp ",
        "ray exec cluster/onprem.yaml 'serve shutdown ",
    )
    check_deployed_by(cluster, deploy, {}, figures)
    run_readme_command(cluster, shut_down, {})


def test_the_readmes_commands_deploy_it_from_a_bucket(
    cluster: RealCluster, s3: S3Server, bundles: list[Path], figures: Figures
) -> None:
    head = cluster.head
    (head.home / "results" / "first").mkdir(parents=True, exist_ok=True)
    shutil.copytree(bundles[0], head.home / "results" / "first" / "bundle", dirs_exist_ok=True)
    copy, deploy = readme_commands(
        "### The service",
        "ray exec cluster/config.yaml 'python ",
        "ray exec cluster/config.yaml 'sed ",
    )
    where = {"s3://MY-BUCKET/bundles/first": s3.uri("bundles/first")}
    for_sed = {before: after.replace("&", r"\&") for before, after in where.items()}
    run_readme_command(cluster, copy, where)
    check_deployed_by(cluster, deploy, for_sed, figures)
    head.run("serve shutdown --yes")


def run_readme_command(cluster: RealCluster, line: str, places: dict[str, str]) -> None:
    """On the laptop, with the cluster's file and places in those of the README."""
    for name in ("cluster/onprem.yaml", "cluster/config.yaml"):
        line = line.replace(name, str(cluster.file))
    for before, after in {"/shared/first": f"{cluster.hosts.shared}/first", **places}.items():
        line = line.replace(before, after)
    cluster.laptop.run(line)


def check_deployed_by(
    cluster: RealCluster, line: str, places: dict[str, str], figures: Figures
) -> None:
    """That it makes a service that answers on the head to who shows the token."""
    began = time.monotonic()
    run_readme_command(cluster, line, places)
    service = Service(cluster, {})
    wait_until(lambda: service.ask("/v2/health/ready", seconds=10)[0] == 200, 150, "it is ready")
    figures(f"README: the service answers {time.monotonic() - began:.0f} s after its command")
    status, answer = service.ask("/admin/status")
    assert status == 200 and answer["model"]["learning_rate"] == 0.01
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{service.url}/admin/status", timeout=10)


@pytest.fixture(scope="module")
def service(cluster: RealCluster, stored: dict[str, str], figures: Figures) -> Iterator[Service]:
    """Two replicas, each on a worker, serving a bundle that each has read from the storage."""
    made = Service(cluster, stored)
    started = time.monotonic()
    made.deploy({"num_replicas": 2})
    made.wait_for_both()
    figures(f"serve deploy: two replicas on two hosts after {time.monotonic() - started:.0f} s")
    yield made
    cluster.head.run("serve shutdown --yes", check=False)


@pytest.mark.parametrize("fault", ["killed", "cut off"])
def test_a_host_is_lost_under_load_and_comes_back(
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
    cluster.wait_for_nodes()
    back = service.wait_for_both()
    time.sleep(5)
    answers = load.end()
    figures(f"a host of two is {fault} for 25 s under load: {told(answers, lost)}")
    figures(f"a host that was {fault}: its replica is back {back:.0f} s after its node")
    late = [each for each in answers if each.sent > lost + 10]
    assert len([each for each in answers if each.images > 1]) > 100
    assert len(late) > 200
    assert not failed(late)
    assert not failed_for_who_tries_twice(answers)
    assert all(each.retry_after for each in failed(answers))


def test_a_promotion_changes_every_replica_over_and_fails_no_request(
    service: Service, figures: Figures
) -> None:
    (before,) = set(service.replicas().values())
    load = service.load()
    time.sleep(3)
    began = time.monotonic()
    status, answer = service.promote_other(before)
    promoted = time.monotonic()
    assert status == 200, answer
    time.sleep(3)
    answers = load.end()
    (after,) = set(service.replicas().values())
    assert after != before
    assert not failed(answers)
    assert {each.version for each in answers} == {after, before}
    mixed = [each for each in answers if each.sent > promoted and each.version != after]
    assert not mixed
    assert {each.version for each in answers if each.ended < began} == {before}
    figures(f"promote: {promoted - began:.1f} s; {len(mixed)} mixed; {told(answers, began)}")


# Short enough for the host to be still the same replica's afterwards, or so long that it isn't.
@pytest.mark.parametrize(("after", "seconds"), [(0.0, 20), (0.3, 20), (0.8, 20), (0.3, 3)])
def test_a_promotion_during_which_a_host_is_cut_off_is_everywhere_or_nowhere(
    after: float, seconds: float, service: Service, cluster: RealCluster, figures: Figures
) -> None:
    service.wait_for_both()
    (before,) = set(service.replicas().values())
    load = service.load(clients=4)
    worker = cluster.workers[1]
    with ThreadPoolExecutor(1) as thread:
        began = time.monotonic()
        promotion = thread.submit(service.promote_other, before)
        time.sleep(after)
        worker.cut_off()
        try:
            status, answer = promotion.result()
            answered = time.monotonic()
            time.sleep(max(0.0, began + after + seconds - time.monotonic()))
        finally:
            worker.mend()
    mended = time.monotonic()
    cluster.wait_for_nodes()
    service.wait_for_both()
    # What came late would be carried out now.
    time.sleep(max(0.0, mended + 60 - time.monotonic()))
    answers = load.end()
    versions = set(service.replicas().values())
    how = "everywhere" if versions != {before} else "nowhere"
    figures(
        f"promote, a host cut off {after} s after its start for {seconds:.0f} s: {how} ({status}) "
        f"after {answered - began:.1f} s; {told(answers, began + after)}"
    )
    assert len(versions) == 1, (status, answer)
    if status not in UNKNOWN:
        assert (status == 200) == (versions != {before}), (status, answer)
    if status == 200:
        late = [each.version for each in answers if each.sent > answered and each.status == 200]
        assert set(late) == versions
    assert not failed([each for each in answers if each.sent > began + after + 10])
    assert not failed_for_who_tries_twice(answers)


def test_replicas_are_added_and_taken_away_under_load_and_no_request_fails(
    service: Service, figures: Figures
) -> None:
    scaling = {
        "min_replicas": 1,
        "max_replicas": 2,
        "target_ongoing_requests": 0.3,
        "metrics_interval_s": 1,
        "look_back_period_s": 4,
        "upscale_delay_s": 2,
        "downscale_delay_s": 5,
    }

    def wait_for(count: int) -> float:
        """Until there are so many, and stay for longer than a change takes to be decided."""
        seconds = wait_until(lambda: len(service.replicas()) == count, 120, f"{count} replicas")
        time.sleep(10)
        assert len(service.replicas()) == count
        return seconds

    service.deploy({"autoscaling_config": scaling})
    light = service.load(clients=2, pause=0.5)
    wait_for(1)
    load_came = time.monotonic()
    heavy = service.load(clients=8, pause=0.0)
    up = wait_for(2)
    many = heavy.end()
    down = wait_for(1)
    answers = light.end()
    figures(
        f"autoscaling: 2 replicas {up:.0f} s after the load came, 1 again {down:.0f} s after it "
        f"went; {told(many + answers, load_came)}"
    )
    assert len(many) > 200
    assert not failed(many + answers)
