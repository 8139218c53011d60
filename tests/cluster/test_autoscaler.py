"""A sweep on a cluster that has no worker yet: it asks for as many as its trials need."""

from __future__ import annotations

import pytest
import yaml

from cluster.conftest import Figures
from cluster.real_cluster import RealCluster
from cluster.sweeping import Tune
from distributed_fmlp.run_directory import load_run

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

# Ray's own provider for tests: its nodes are more raylets on the same machine. By its own name it
# would want a file that Ray's wheel leaves out.
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
HEAD_ID = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"
CONFIG = {
    "cluster_name": "asked",
    "max_workers": 4,
    "idle_timeout_minutes": 1,
    "upscaling_speed": 1.0,
    "provider": {
        "type": "external",
        "module": PROVIDER,
        "launch_multiple": True,
        "head_node_id": HEAD_ID,
        # All have one address, and no ssh goes to them.
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    },
    **{key: {} for key in ("auth", "docker", "file_mounts")},
    **{key: [] for key in ("cluster_synced_files", "initialization_commands", "rsync_exclude")},
    **{key: [] for key in ("rsync_filter", "head_setup_commands", "worker_setup_commands")},
    **{key: [] for key in ("setup_commands", "head_start_ray_commands")},
    "worker_start_ray_commands": [],
    "file_mounts_sync_continuously": False,
    "head_node_type": "ray.head.default",
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "small": {
            "resources": {"CPU": 1, "object_store_memory": 100_000_000},
            "node_config": {},
            "min_workers": 0,
            "max_workers": 2,
        },
    },
}


@pytest.mark.parametrize(("version", "n_trials"), [("1", 2), ("2", 3)])
def test_a_sweep_asks_for_the_nodes_that_its_trials_need(
    version: str, n_trials: int, cluster: RealCluster, figures: Figures
) -> None:
    laptop = cluster.laptop
    (laptop.home / "asked.yaml").write_text(yaml.safe_dump(CONFIG))
    environment = {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_NODE_TYPE_NAME": "ray.head.default",  # as `ray up` does
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
        "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
        "RAY_enable_autoscaler_v2": str(int(version == "2")),
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }
    laptop.run(
        "ray start --head --port=6379 --num-cpus=0 --object-store-memory=100000000 "
        "--dashboard-host=127.0.0.1 --autoscaling-config=$HOME/asked.yaml",
        **environment,
    )
    try:
        name = f"asked-{version}"
        rates = " ".join(f"--lr 0.0{number + 1}" for number in range(n_trials))
        command = Tune(
            laptop,
            f"--address {laptop.address}:6379 --storage {cluster.hosts.shared} --dataset digits "
            f"--hidden 32 --epochs 1 --name {name} {rates}",
        )
        seconds = command.end(200)
        run = load_run(laptop.home / "results" / name)
        assert run.info["machine"]["cluster_cpus"] == 2, "two is the most that there may be"
        assert run.info["resources"]["max_concurrent"] == 2
        waiting = [line for line in command.output if line.startswith("Waiting for nodes")]
        assert f"0 of {n_trials} trials have a place" in waiting[0]
        assert any(f"2 of {n_trials} trials have a place" in line for line in waiting)
        figures(f"asked autoscaler v{version} for nodes from none: {seconds:.0f} s in all")
    finally:
        laptop.run("ray stop --force")
