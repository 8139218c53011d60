"""One cluster for all of these tests, made by `ray up`; taken down at the end whatever happens.

`make test-cluster` runs them; where pseudo-hosts can't be made they are skipped, and say why.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cluster.hosts import Hosts, missing
from cluster.process_list import ProcessList
from cluster.real_cluster import RealCluster
from cluster.s3_server import CREDENTIALS, S3Server
from cluster.sweeping import RECIPE, Tune, results_of


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What looks for secrets comes after all that might leave one; what takes all down, last."""
    for last in ("test_the_token_is_in_no_", "test_ray_down_"):
        items.sort(key=lambda item, last=last: item.name.startswith(last))


@dataclass
class Figures:
    """What was measured, printed at the end of each test and all together in a file if asked."""

    lines: list[str] = field(default_factory=list)

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        print(f"FIGURE {line}", flush=True)


@pytest.fixture(scope="session")
def figures() -> Iterator[Figures]:
    made = Figures()
    yield made
    if "FMLP_CLUSTER_FIGURES" in os.environ:
        Path(os.environ["FMLP_CLUSTER_FIGURES"]).write_text("\n".join(made.lines) + "\n")


@pytest.fixture(scope="session")
def hosts() -> Iterator[Hosts]:
    why = missing()
    if why is not None:
        pytest.skip(why)
    with Hosts("laptop", "head", "w1", "w2", "store") as made:
        yield made


@pytest.fixture(scope="session")
def s3(hosts: Hosts) -> Iterator[S3Server]:
    server = S3Server(hosts["store"])
    yield server
    server.stop()


@pytest.fixture(scope="session")
def process_list() -> Iterator[ProcessList]:
    watching = ProcessList()
    yield watching
    watching.stop()


@pytest.fixture(scope="session")
def cluster(hosts: Hosts, figures: Figures, process_list: ProcessList) -> Iterator[RealCluster]:
    made = RealCluster(hosts, "head", ["w1", "w2"])
    for node in made.nodes:
        # What a cluster in a cloud has from its instances' role.
        (node.home / ".aws").mkdir()
        (node.home / ".aws" / "credentials").touch(mode=0o600)
        (node.home / ".aws" / "credentials").write_text(CREDENTIALS)
    started = time.monotonic()
    try:
        made.up()
        up = time.monotonic() - started
        made.wait_for_nodes()
        figures(
            f"ray up: returned after {up:.0f} s, all of {len(made.nodes)} nodes alive after "
            f"{time.monotonic() - started:.0f} s"
        )
        yield made
    finally:
        if "FMLP_CLUSTER_LOGS" in os.environ:
            for name, path in made.logs().items():
                target = Path(os.environ["FMLP_CLUSTER_LOGS"]) / name.replace(":", "/")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)


@pytest.fixture(scope="session")
def single_machine(cluster: RealCluster, figures: Figures) -> dict[str, str]:
    """The results of the same sweep on one machine, the laptop, with a Ray of its own."""
    laptop = cluster.laptop
    command = Tune(laptop, f"{RECIPE} --name single")
    figures(f"the sweep on one machine: {command.end():.0f} s")
    return results_of(laptop.home / "results" / "single")
