"""How CPUs and GPUs are shared out, on machines of every size."""

from __future__ import annotations

import json
import re
import secrets
import shlex
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distributed_fmlp.errors import ClusterError, OptionError
from distributed_fmlp.sweep.resources import Node, Plan, plan
from tests.sweep.conftest import Desk


@pytest.mark.parametrize(
    ("nodes", "trials", "expected"),
    [
        ([Node(1)], 4, Plan(1, 0, 1)),
        ([Node(2)], 4, Plan(1, 0, 2)),  # never four threads on two cores
        ([Node(4)], 4, Plan(1, 0, 4)),
        ([Node(6)], 4, Plan(1, 0, 4)),
        ([Node(8)], 4, Plan(2, 0, 4)),
        ([Node(64)], 4, Plan(4, 0, 4)),
        ([Node(2)], 1, Plan(2, 0, 1)),
        ([Node(8)], 12, Plan(1, 0, 8)),
        ([Node(2), Node(2)], 4, Plan(1, 0, 4)),
        ([Node(4), Node(4)], 4, Plan(2, 0, 4)),
        ([Node(0), Node(2)], 4, Plan(1, 0, 2)),  # a head that takes no trials
        ([Node(8, 1)], 4, Plan(2, 0.25, 4)),  # a quarter of the one GPU each
        ([Node(8, 2)], 4, Plan(2, 0.5, 4)),
        ([Node(8, 4)], 4, Plan(2, 1, 4)),  # one GPU each on four
        ([Node(8, 8)], 4, Plan(2, 1, 4)),
        ([Node(8, 1)], 12, Plan(2, 0.25, 4)),
        ([Node(2, 1)], 4, Plan(1, 0.25, 2)),
        ([Node(4, 1)] * 4, 4, Plan(4, 1, 4)),
        ([Node(4, 0), Node(4, 1)], 4, Plan(1, 0.25, 4)),  # the node without a GPU takes none
    ],
)
def test_shares_follow_from_what_is_there(nodes: list[Node], trials: int, expected: Plan) -> None:
    assert plan(nodes, trials) == expected


def test_shares_may_be_given() -> None:
    assert plan([Node(8)], 4, cpus_per_trial=4) == Plan(4, 0, 2)
    assert plan([Node(8)], 4, max_concurrent=1) == Plan(4, 0, 1)
    assert plan([Node(8, 1)], 4, gpus_per_trial=0) == Plan(2, 0, 4)
    assert plan([Node(8, 4)], 4, gpus_per_trial=2) == Plan(4, 2, 2)
    assert plan([Node(8, 2)], 4, gpus_per_trial=0.6) == Plan(4, 0.6, 2)


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"cpus_per_trial": 5}, "--cpus-per-trial 5: the largest node has 4 CPUs; give at most 4"),
        ({"gpus_per_trial": 2.0}, "--gpus-per-trial 2: the largest node has 1 GPUs"),
        ({"cpus_per_trial": 4, "gpus_per_trial": 1.0}, "no single node has both"),
    ],
)
def test_more_than_any_node_has_is_refused_by_name(asked: dict[str, float], line: str) -> None:
    with pytest.raises(OptionError) as caught:
        plan([Node(4), Node(2, 1)], 4, **asked)  # type: ignore[arg-type]
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("nodes", [[], [Node(0)], [Node(0, 4)]])
def test_a_cluster_without_a_cpu_for_trials_is_refused(nodes: list[Node]) -> None:
    with pytest.raises(ClusterError, match="no node offers a CPU"):
        plan(nodes, 4)


@given(
    nodes=st.lists(
        st.builds(Node, cpus=st.integers(0, 40), gpus=st.integers(0, 8).map(float)),
        min_size=1,
        max_size=5,
    ),
    trials=st.integers(1, 20),
    most=st.none() | st.integers(1, 8),
)
@settings(max_examples=300)
def test_nothing_is_promised_twice_and_something_always_runs(
    nodes: list[Node], trials: int, most: int | None
) -> None:
    if not any(node.cpus and (node.gpus or not any(each.gpus for each in nodes)) for node in nodes):
        return
    shares = plan(nodes, trials, max_concurrent=most)
    assert 1 <= shares.at_once <= min(trials, most or trials)
    # Place the trials one by one, as Ray does: on a node, and on one GPU of it.
    cpus = [node.cpus for node in nodes]
    gpus = [[1.0] * int(node.gpus) for node in nodes]
    for _ in range(shares.at_once):
        for place in range(len(nodes)):
            fitting = [
                gpu for gpu, left in enumerate(gpus[place]) if left >= shares.gpus_per_trial - 1e-9
            ]
            if cpus[place] >= shares.cpus_per_trial and (fitting or not shares.gpus_per_trial):
                cpus[place] -= shares.cpus_per_trial
                if shares.gpus_per_trial:
                    gpus[place][fitting[0]] -= shares.gpus_per_trial
                break
        else:
            pytest.fail(f"{shares} doesn't fit on {nodes}")


CLUSTER_WITH_A_GPU = """
import sys
from distributed_fmlp.ray_session import configure_environment
configure_environment(private=True)
import ray
ray.init(address="local", num_cpus=4, num_gpus=1, include_dashboard=False, log_to_driver=False)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_four_trials_get_a_quarter_of_the_only_gpu_each_and_train_on_nothing_else(
    desk: Desk,
) -> None:
    """Ray takes a GPU's presence on trust; a torch that can't use it must not train elsewhere."""
    token = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # a cluster on loopback is found there
    }
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER_WITH_A_GPU],
        cwd=desk.cwd,
        env=desk.environment(**token),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as cluster:
        assert cluster.stdin is not None and cluster.stdout is not None
        address = cluster.stdout.readline().strip()
        finished = desk.run(
            *shlex.split("--dataset digits --epochs 1 --hidden 16 --name quarter"),
            *shlex.split(f"--max-failures 0 --address {address}"),
            **token,
        )
        cluster.stdin.close()
    assert finished.status in (0, 1), finished.err
    info = json.loads((desk.results / "quarter" / "run.json").read_text("utf-8"))
    shares = {"cpus_per_trial": 1, "gpus_per_trial": 0.25, "max_concurrent": 4}
    assert info["resources"] == shares, finished.err
    assert "4 at once, 0.25 GPU and 1 CPU each" in finished.out
    if torch.cuda.is_available():
        assert finished.status == 0
        return
    assert finished.status == 1
    reasons = re.findall(r"failed for good: .*Ray assigned a GPU .* can't use it", finished.out)
    assert len(reasons) == 4, finished.out
