"""`ray up` from nothing to a cluster that is well, `ray down` back to nothing."""

from __future__ import annotations

import time

import pytest

from cluster.conftest import Figures
from cluster.real_cluster import RealCluster, wait_until
from cluster.s3_server import S3Server

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]


def test_ray_up_brings_all_nodes_with_one_cpu_each(cluster: RealCluster) -> None:
    told = cluster.head.run("ray status").stdout
    assert f"/{len(cluster.nodes)}.0 CPU" in told, told


def test_doctor_finds_nothing_wrong_with_it(
    cluster: RealCluster, s3: S3Server, figures: Figures
) -> None:
    command = f"python -m distributed_fmlp.doctor --address auto --storage '{s3.uri('doctor')}'"
    done = cluster.head.run(command, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout
    figures("doctor on the cluster:\n" + done.stdout)


def test_the_token_is_in_no_process_list_no_log_and_not_in_the_cluster_file(
    cluster: RealCluster,
) -> None:
    secrets = (cluster.token, cluster.api_token, "test-secret-never-in-a-log")
    for secret in secrets:
        assert secret not in cluster.file.read_text()
        for node in (cluster.laptop, *cluster.nodes):
            assert not [line for line in node.command_lines() if secret in line]
    for name, path in cluster.logs().items():
        content = path.read_text(errors="replace")
        assert not [secret for secret in secrets if secret in content], name


def test_who_has_no_token_is_refused(cluster: RealCluster) -> None:
    command = f"ray status --address {cluster.head.address}:6379"
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    done = cluster.laptop.run(command, check=False, patience=120, **environment)
    assert done.returncode != 0
    assert "Resources" not in done.stdout


def test_ray_down_leaves_nothing(cluster: RealCluster, figures: Figures) -> None:
    started = time.monotonic()
    cluster.down()
    returned = time.monotonic() - started

    def left() -> list[str]:
        # sshd, and what became a host, are not Ray's
        return [
            line
            for node in cluster.nodes
            for line in node.command_lines()
            if "ray" in line and "sshd" not in line and not line.startswith("unshare")
        ]

    wait_until(lambda: not left(), 150, "no process of Ray's on any node")
    figures(
        f"ray down: returned after {returned:.0f} s, no process left on any node after "
        f"{time.monotonic() - started:.0f} s"
    )
