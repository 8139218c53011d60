"""Whatever dies or is away during a sweep, it ends with the bits of the one that nothing befell."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cluster.conftest import Figures
from cluster.real_cluster import RealCluster
from cluster.s3_server import S3Server
from cluster.sweeping import RECIPE, Computed, Tune, results_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(500)]

MIDDLE = 4  # the epoch at which the fault falls, of 16


class FaultySweep:
    """One sweep with its storage on the S3 server; checked and counted at its end."""

    def __init__(self, cluster: RealCluster, s3: S3Server, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.began = time.time()
        self.command = Tune(
            cluster.head,
            f"--address auto --storage '{s3.uri('faults')}' {RECIPE} --name {name}",
        )
        self.command.wait_for_epoch(MIDDLE, at_least=3)

    def resume(self) -> None:
        self.command = Tune(self.cluster.head, f"--address auto --resume {self.name}")

    def end(self, whole: dict[str, str], what: str, figures: Figures) -> Computed:
        """Its good end with the right bits; what it took, which tells whether the fault bit."""
        self.command.end()
        seconds = time.time() - self.began
        run: Path = self.cluster.head.home / "results" / self.name
        assert results_of(run) == whole
        computed = Computed.since(self.cluster, self.began)
        # Beside these each trial that was interrupted loses the epoch that it was in.
        assert all(count <= 1 for count in computed.twice.values()), computed
        figures(
            f"{what}: {seconds:.0f} s, same bits; {sum(computed.twice.values())} epochs computed "
            f"twice to their end {computed.twice or ''}, {computed.starts - 4} trials started "
            "again within an epoch"
        )
        return computed

    def told_that_the_storage_is_away(self) -> list[str]:
        """The processes of trials, by their logs, that have met a storage that was away."""
        return [
            name
            for name, path in self.cluster.logs().items()
            if "/worker-" in name
            and name.endswith(".err")
            and path.stat().st_mtime >= self.began
            and "the storage is away" in path.read_text(errors="replace")
        ]


def test_a_worker_loses_power(
    cluster: RealCluster, s3: S3Server, single_machine: dict[str, str], figures: Figures
) -> None:
    sweep = FaultySweep(cluster, s3, "worker-killed")
    cluster.workers[0].power_off()
    try:
        computed = sweep.end(single_machine, "a worker is killed", figures)
    finally:
        cluster.workers[0].power_on()
    assert computed.starts > 4, "a trial that was on it is started again"
    seconds = cluster.wait_for_nodes()
    figures(f"the killed worker, switched on again, is back in the cluster after {seconds:.0f} s")


def test_a_worker_is_cut_off_for_a_minute(
    cluster: RealCluster, s3: S3Server, single_machine: dict[str, str], figures: Figures
) -> None:
    sweep = FaultySweep(cluster, s3, "worker-cut-off")
    cluster.workers[1].cut_off()
    time.sleep(60)
    cluster.workers[1].mend()
    computed = sweep.end(single_machine, "a worker is cut off for 60 s", figures)
    assert computed.starts > 4, "Ray gives it up after half a minute: its trial goes on elsewhere"
    seconds = cluster.wait_for_nodes()
    figures(f"the worker that was cut off is back in the cluster {seconds:.0f} s after the sweep")


def test_the_storage_is_away_for_half_a_minute(
    cluster: RealCluster, s3: S3Server, single_machine: dict[str, str], figures: Figures
) -> None:
    sweep = FaultySweep(cluster, s3, "storage-away")
    s3.host.cut_off()
    time.sleep(30)
    s3.host.mend()
    sweep.end(single_machine, "the storage is away for 30 s", figures)
    assert sweep.told_that_the_storage_is_away()


def test_the_driver_is_killed(
    cluster: RealCluster, s3: S3Server, single_machine: dict[str, str], figures: Figures
) -> None:
    sweep = FaultySweep(cluster, s3, "driver-killed")
    sweep.command.kill()
    sweep.resume()
    computed = sweep.end(single_machine, "the driver is killed, --resume", figures)
    assert computed.starts > 4, "trials that were going on are started again"


def test_the_head_loses_power_and_ray_up_brings_it_back(
    cluster: RealCluster, s3: S3Server, single_machine: dict[str, str], figures: Figures
) -> None:
    sweep = FaultySweep(cluster, s3, "head-killed")
    cluster.head.power_off()
    sweep.command.abandon()
    cluster.head.power_on()
    started = time.monotonic()
    cluster.up()
    cluster.wait_for_nodes()
    figures(
        f"the head was killed: ray up had all nodes back after {time.monotonic() - started:.0f} s"
    )
    sweep.resume()
    computed = sweep.end(single_machine, "the head is killed, ray up, --resume", figures)
    assert computed.starts > 4, "trials that were going on are started again"
