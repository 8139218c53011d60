"""`ray up` from nothing to a cluster that is well, `ray down` back to nothing."""

from __future__ import annotations

import time

import pytest

from cluster.conftest import Figures
from cluster.process_list import ProcessList
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
    process_list: ProcessList,
    single_machine: dict[str, str],  # one run at least has left its logs
    figures: Figures,
) -> None:
    secrets = (cluster.token, cluster.api_token, "test-secret-never-in-a-log")
    logs = cluster.logs() | cluster.run_logs()
    assert {name.split(":")[0] for name in logs} == {"laptop", "head", "w1", "w2"}
    assert [name for name in logs if name.startswith("laptop:results/single/logs/")]
    assert process_list.samples > 0.5 * process_list.seconds()
    for program in ("/raylet/raylet ", "ray start ", "-m distributed_fmlp.tune "):
        assert any(program in line for line in process_list.seen), program
    for secret in secrets:
        assert secret not in cluster.file.read_text()
        assert not [line for line in process_list.seen if secret in line]
    for name, path in logs.items():
        content = path.read_text(errors="replace")
        assert not [secret for secret in secrets if secret in content], name
    figures(
        f"no token in {len(process_list.seen):,} command lines, of {process_list.samples:,} looks "
        f"at the process list over {process_list.seconds():.0f} s, nor in {len(logs):,} log files"
    )


def test_who_shows_the_token_is_let_in(cluster: RealCluster) -> None:
    told = cluster.laptop.run(f"ray status --address {cluster.head.address}:6379").stdout
    assert f"/{len(cluster.nodes)}.0 CPU" in told, told


@pytest.mark.parametrize(
    "shown",
    [{"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}, {"RAY_AUTH_MODE": "disabled"}],
    ids=["another token", "no token"],
)
def test_who_has_not_the_token_is_refused(shown: dict[str, str], cluster: RealCluster) -> None:
    command = f"ray status --address {cluster.head.address}:6379"
    done = cluster.laptop.run(command, check=False, patience=120, **shown)
    assert done.returncode != 0
    assert "CPU" not in done.stdout
    assert "uthenti" in done.stdout + done.stderr, done.stdout + done.stderr


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
