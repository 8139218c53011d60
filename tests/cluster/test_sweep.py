"""A sweep over the nodes of a real cluster: the same bits as on one machine."""

from __future__ import annotations

import time

import pytest

from cluster.conftest import Figures
from cluster.real_cluster import RealCluster
from cluster.s3_server import S3Server
from cluster.sweeping import RECIPE, Computed, Tune, results_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]


@pytest.mark.parametrize("kind", ["s3", "shared directory"])
def test_a_sweep_spreads_over_the_nodes_and_gives_the_bits_of_one_machine(
    kind: str,
    cluster: RealCluster,
    s3: S3Server,
    single_machine: dict[str, str],
    figures: Figures,
) -> None:
    name = kind.split()[0]
    storage = s3.uri("sweeps") if kind == "s3" else str(cluster.hosts.shared)
    began = time.time()
    command = Tune(
        cluster.head, f"--address auto --storage '{storage}' {RECIPE} --name sweep-{name}"
    )
    seconds = command.end()
    run = cluster.head.home / "distributed_fmlp" / "results" / f"sweep-{name}"
    assert results_of(run) == single_machine
    computed = Computed.since(cluster, began)
    assert computed == Computed({}, 4)
    nodes = trial_hosts(cluster, began)
    assert nodes == {"head", "w1", "w2"}
    figures(f"sweep with storage in {kind}: {seconds:.0f} s, on {', '.join(sorted(nodes))}; equal")


def test_a_directory_of_each_nodes_own_is_refused_before_training(cluster: RealCluster) -> None:
    for storage in ("", "--storage /tmp/of-my-own"):
        done = cluster.head.run(
            cluster.project(
                f"python -m distributed_fmlp.tune --address auto {storage} {RECIPE} --name refused"
            ),
            check=False,
        )
        assert done.returncode == 2, done.stdout + done.stderr
        (line,) = done.stderr.splitlines()
        assert "every node reaches" in line
        assert not storage or ("w1 (" in line and "w2 (" in line and "head (" not in line)
        assert not (cluster.head.home / "distributed_fmlp" / "results" / "refused").exists()
        assert not (cluster.head.tmp / "of-my-own").exists()


def trial_hosts(cluster: RealCluster, began: float) -> set[str]:
    """The hosts whose processes have trained since then."""
    return {
        name.split(":")[0]
        for name, path in cluster.logs().items()
        if "/worker-" in name
        and path.stat().st_mtime >= began
        and "has trained epoch" in path.read_text(errors="replace")
    }
