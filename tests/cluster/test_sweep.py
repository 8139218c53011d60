"""A sweep over the nodes of a real cluster: the same bits as on one machine."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from cluster.conftest import Figures
from cluster.real_cluster import RealCluster, Store, wait_until
from cluster.s3_server import S3Server
from cluster.sweeping import RECIPE, Computed, Tune, results_of
from distributed_fmlp.data import load_dataset
from distributed_fmlp.run_directory import load_run

SHORT = "--dataset digits --hidden 32 --epochs 1 --cpus-per-trial 1 --lr 0.01 --lr 0.003"
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
    before = cluster.stores()
    began = time.time()
    command = Tune(
        cluster.head, f"--address auto --storage '{storage}' {RECIPE} --name sweep-{name}"
    )
    seconds = command.end()
    run = cluster.head.home / "results" / f"sweep-{name}"
    assert results_of(run) == single_machine
    computed = Computed.since(cluster, began)
    assert computed == Computed({}, 4)
    nodes = trial_hosts(cluster, began)
    assert nodes == {"head", "w1", "w2"}
    figures(f"sweep with storage in {kind}: {seconds:.0f} s, on {', '.join(sorted(nodes))}; equal")
    check_data_went_once("digits", None, before, cluster.stores(), figures)


@pytest.mark.real_data
@pytest.mark.skipif("FMLP_DATA_DIR" not in os.environ, reason="FMLP_DATA_DIR doesn't name the data")
def test_fashion_mnist_goes_to_each_node_once(cluster: RealCluster, figures: Figures) -> None:
    data = Path(os.environ["FMLP_DATA_DIR"])
    before = cluster.stores()
    command = Tune(
        cluster.head,
        f"--address auto --storage {cluster.hosts.shared} --dataset fashion-mnist "
        f"--data-dir {data} --hidden 32 --epochs 1 --cpus-per-trial 1 --name fashion-mnist",
    )
    figures(f"FashionMNIST, one epoch of four trials: {command.end():.0f} s")
    check_data_went_once("fashion-mnist", data, before, cluster.stores(), figures)


def test_ray_job_submit_through_the_tunnel_takes_the_same_command(
    cluster: RealCluster, figures: Figures
) -> None:
    tunnel = subprocess.Popen(
        cluster.laptop.words(f"exec ray dashboard {cluster.file}"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        knock = "exec 3<>/dev/tcp/127.0.0.1/8265"
        wait_until(lambda: cluster.laptop.run(knock, check=False).returncode == 0, 60, "a tunnel")
        done = cluster.laptop.run(
            "ray job submit --address http://127.0.0.1:8265 -- python -m distributed_fmlp.tune "
            f"--address auto --storage {cluster.hosts.shared} {SHORT} --name submitted",
        )
    finally:
        tunnel.terminate()
        tunnel.wait(30)
    assert "succeeded" in done.stdout
    run = load_run(cluster.head.home / "results" / "submitted")
    assert run.info["status"] == "finished"
    figures(f"ray job submit from the laptop, through ray dashboard: {run.info['seconds']:.0f} s")


def test_from_a_laptop_that_is_no_node_the_sweep_says_what_to_do(cluster: RealCluster) -> None:
    done = cluster.laptop.run(
        f"python -m distributed_fmlp.tune --address {cluster.head.address}:6379 "
        f"--storage {cluster.hosts.shared} {SHORT} --name refused",
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert "ray start --address" in line
    assert "--num-cpus=0" in line


def test_from_a_laptop_that_joins_without_a_cpu_trials_run_on_the_cluster(
    cluster: RealCluster, figures: Figures
) -> None:
    laptop, head = cluster.laptop, f"{cluster.head.address}:6379"
    laptop.run(f"ray start --address={head} --num-cpus=0 --object-store-memory=200000000")
    try:
        began = time.time()
        command = Tune(
            laptop, f"--address {head} --storage {cluster.hosts.shared} {SHORT} --name from-laptop"
        )
        seconds = command.end()
        assert trial_hosts(cluster, began) <= {"head", "w1", "w2"}
        assert trial_hosts(cluster, began)
        run = load_run(laptop.home / "results" / "from-laptop")
        assert run.info["status"] == "finished"
        figures(f"from a laptop that joined with no CPU, --address {head}: {seconds:.0f} s")
    finally:
        laptop.run("ray stop")
    cluster.wait_for_nodes()


def test_a_directory_of_each_nodes_own_is_refused_before_training(cluster: RealCluster) -> None:
    for storage in ("", "--storage /tmp/of-my-own"):
        done = cluster.head.run(
            f"python -m distributed_fmlp.tune --address auto {storage} {RECIPE} --name refused",
            check=False,
        )
        assert done.returncode == 2, done.stdout + done.stderr
        (line,) = done.stderr.splitlines()
        assert "every node reaches" in line
        assert not storage or ("w1 (" in line and "w2 (" in line and "head (" not in line)
        assert not (cluster.head.home / "results" / "refused").exists()
        assert not (cluster.head.tmp / "of-my-own").exists()


def check_data_went_once(
    name: str,
    directory: Path | None,
    before: dict[str, Store],
    after: dict[str, Store],
    figures: Figures,
) -> None:
    """Each node's object store has had the arrays once, whatever number of trials used them."""
    data = load_dataset(name, directory, may_download=False)
    size = sum(
        array.nbytes
        for array in (data.train_images, data.train_labels, data.test_images, data.test_labels)
    )
    came = {node: store.bytes - before[node].bytes for node, store in after.items()}
    told = ", ".join(f"{node} {n_bytes:,}" for node, n_bytes in sorted(came.items()))
    figures(f"{name} is {size:,} bytes; bytes that came into each object store: {told}")
    assert came.keys() == {"head", "w1", "w2"}
    assert all(size <= n_bytes < 1.5 * size for n_bytes in came.values()), came


def trial_hosts(cluster: RealCluster, began: float) -> set[str]:
    """The hosts whose processes have trained since then."""
    return {
        name.split(":")[0]
        for name, path in cluster.logs().items()
        if "/worker-" in name
        and path.stat().st_mtime >= began
        and "has trained epoch" in path.read_text(errors="replace")
    }
