"""What is judged of nodes by what they say about themselves; no Ray runs here."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from distributed_fmlp.doctor import running_cluster
from distributed_fmlp.doctor.cluster_nodes import ExaminedNode
from distributed_fmlp.doctor.findings import Finding
from distributed_fmlp.doctor.node_checks import (
    check_lost,
    check_nodes,
    check_room,
    check_this_node,
)
from distributed_fmlp.doctor.node_facts import LIBRARIES

GIB = 1 << 30
HERE: dict[str, Any] = {
    "python": "3.11.7",
    "libraries": {name: "1.2.3" for name in LIBRARIES},
    "package": {"version": "0.1.0", "sha256": "a" * 64, "place": "/here"},
}
# Of a node that is well, and what this machine has.
WELL: dict[str, Any] = {
    "host": "second",
    **HERE,
    "torch": {"gpus": 0, "cuda": "-", "driver": False},
    "cpus": 4,
    "memory": 8 * GIB,
    "disks": {"/there": {"free": 100 * GIB, "total": 252 * GIB}},
    "data": None,
    "open_ports": [6379],
    "token": {
        "mode": "token",
        "file": "/home/ray/.ray/auth_token",
        "file_mode": 0o600,
        "told_to_processes": False,
    },
}


def node_with(
    *, cpus: float = 4.0, gpus: float = 0.0, head: bool = False, **facts: Any
) -> ExaminedNode:
    """A node that is well but for `facts`."""
    address = "10.0.0.2" if head else "10.0.0.3"
    whole = copy.deepcopy(WELL) | {"host": "first" if head else "second"} | facts
    return ExaminedNode(address, address, head, cpus, gpus, [], facts=whole)


def others(**changed: str | None) -> dict[str, str]:
    """The libraries here, some in another version or (`None`) not at all."""
    found = {**HERE["libraries"], **{name.replace("_", "-"): v for name, v in changed.items()}}
    return {name: version for name, version in found.items() if version is not None}


def not_well(found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.verdict != "ok"]


def test_nodes_that_are_well_get_a_line_for_each_check() -> None:
    found = check_nodes([node_with(head=True), node_with()], HERE)
    assert not_well(found) == []
    checks = ["Python", "Ray", "torch", "libraries", "package", "CPUs", "GPUs"]
    assert [finding.check for finding in found] == [*checks, "clock", "disk", "memory", "token"]
    assert all("on all 2 nodes" in finding.told for finding in found)


TOKEN = WELL["token"]
GPU_BUILD = {"gpus": 1, "cuda": "12.9", "driver": True}
# What is wrong with a node; the check that finds it, what it tells and what it advises.
WRONG: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "more CPUs than it has": (
        {"cpus": 8.0},
        "CPUs",
        "offers 8 CPUs to Ray and has 4",
        "--num-cpus",
    ),
    "GPUs that torch can't use": (
        {"gpus": 1.0},
        "GPUs",
        "offers 1 GPUs to Ray and torch sees 0 (built for CUDA -)",
        "a build of torch for CUDA",
    ),
    "GPUs that Ray isn't offered": (
        {"torch": GPU_BUILD},
        "GPUs",
        "has 1 GPUs that torch sees and offers 0 to Ray",
        "--num-gpus",
    ),
    "torch that can't be imported": (
        {"torch": {"error": "OSError: libcudart.so.12"}},
        "GPUs",
        "can't import torch (OSError: libcudart.so.12)",
        "ray up",
    ),
    "little memory": ({"memory": GIB - 1}, "memory", "GiB of memory left", "larger machine"),
    "little disk": (
        {"disks": {"/there": {"free": GIB, "total": 252 * GIB}}},
        "disk",
        "has 1.0 GiB free of 252.0 GiB for /there",
        "make room",
    ),
    "a token in the process list": (
        {"token": TOKEN | {"told_to_processes": True}},
        "token",
        "shows Ray's token in its process list",
        "make a new token",
    ),
    "a token that others read": (
        {"token": TOKEN | {"file_mode": 0o640}},
        "token",
        "lets others read /home/ray/.ray/auth_token",
        "chmod 600 /home/ray/.ray/auth_token there",
    ),
    "another Python": (
        {"python": "3.11.9"},
        "Python",
        "has Python 3.11.9, this machine 3.11.7",
        "ray up",
    ),
    "another Ray": (
        {"libraries": others(ray="2.59.0")},
        "Ray",
        "has ray 2.59.0 (here 1.2.3)",
        "up",
    ),
    "no torch": ({"libraries": others(torch=None)}, "torch", "has no torch", "ray up"),
    "another library and none of one": (
        {"libraries": others(numpy="1.0", scikit_learn=None)},
        "libraries",
        "has numpy 1.0 (here 1.2.3), no scikit-learn",
        "constraints.txt",
    ),
    "no package": ({"package": None}, "package", "has no distributed_fmlp", "ray up"),
    "another version of the package": (
        {"package": HERE["package"] | {"version": "0.0.9"}},
        "package",
        "has distributed_fmlp 0.0.9, this machine 0.1.0",
        "ray up",
    ),
    "other sources of the package": (
        {"package": HERE["package"] | {"sha256": "b" * 64, "place": "/there"}},
        "package",
        "has other sources of distributed_fmlp 0.1.0 in /there",
        "ray up",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_with_one_node_is_named_with_it(what: str) -> None:
    changed, check, told, advice = WRONG[what]
    (finding,) = not_well(check_nodes([node_with(head=True), node_with(**changed)], HERE))
    assert (finding.verdict, finding.check) == ("FAILED", check)
    assert finding.told.startswith("node second (10.0.0.3) ")
    assert told in finding.told
    assert advice in finding.advice


OF_ONE_MACHINE = ("CPUs", "GPUs", "memory", "disk", "token")


@pytest.mark.parametrize("what", [key for key, row in WRONG.items() if row[1] in OF_ONE_MACHINE])
def test_what_is_wrong_with_a_machine_asked_alone_is_named_too(what: str) -> None:
    changed, check, told, _ = WRONG[what]
    assert not_well(check_this_node(node_with())) == []
    (finding,) = not_well(check_this_node(node_with(**changed)))
    assert (finding.verdict, finding.check) == ("FAILED", check)
    assert told in finding.told


@pytest.mark.parametrize(
    "changed",
    [
        {"cpus": 2.0},  # fewer than there are may be offered
        {"gpus": 1.0, "torch": GPU_BUILD},
        {"memory": GIB},
        {"memory": None},  # not known
        {"disks": {"/there": None}},
        {"token": TOKEN | {"file": None, "file_mode": None}},  # given in another way
        {"libraries": {**HERE["libraries"], "more": "1.0"}},
    ],
)
def test_what_is_not_wrong_is_let_pass(changed: dict[str, Any]) -> None:
    assert not_well(check_nodes([node_with(head=True), node_with(**changed)], HERE)) == []


@pytest.mark.parametrize(
    ("free", "total", "verdicts"),
    [
        (100 * GIB, 252 * GIB, ["ok"]),
        (12 * GIB, 252 * GIB, ["ok", "note"]),  # Ray takes it for full, a sweep runs
        (1 * GIB, 4 * GIB, ["FAILED"]),
        (1 * GIB, 252 * GIB, ["FAILED"]),
    ],
)
def test_a_disk_is_full_where_a_run_has_no_room(free: int, total: int, verdicts: list[str]) -> None:
    node = node_with(disks={"/there": {"free": free, "total": total}})
    told = [finding for finding in check_this_node(node) if finding.check == "disk"]
    assert [finding.verdict for finding in told] == verdicts
    assert all("/there" in finding.told for finding in told if finding.verdict != "ok")


@pytest.mark.parametrize(
    ("offset", "doubt", "says"),
    [
        (1.9, 0.0, None),
        (3.0, 1.5, None),  # it may be right
        (90.0, 0.01, "is 90.0 s ahead of this machine"),
        (-90.0, 0.01, "is 90.0 s behind this machine"),
    ],
)
def test_a_clock_is_wrong_where_it_is_off_beyond_doubt(
    offset: float, doubt: float, says: str | None
) -> None:
    node = node_with()
    node.clock_offset, node.clock_doubt = offset, doubt
    found = not_well(check_nodes([node_with(head=True), node], HERE))
    assert [finding.check for finding in found] == (["clock"] if says else [])
    assert all(says is not None and says in finding.told for finding in found)


def test_a_node_that_gives_no_answer_is_named_and_the_others_are_judged() -> None:
    silent = node_with()
    silent.error, silent.facts = "no answer within 150 s", {}
    found = check_nodes([node_with(head=True), silent], HERE)
    (finding,) = not_well(found)
    assert (finding.verdict, finding.check) == ("FAILED", "answer")
    assert "10.0.0.3 didn't answer (no answer within 150 s)" in finding.told
    assert len(found) > 5
    assert len(check_nodes([silent], HERE)) == 1


def test_a_lost_node_is_told_of_and_stops_nothing() -> None:
    (finding,) = check_lost(["10.0.0.4"])
    assert (finding.verdict, finding.check) == ("note", "nodes")
    assert "10.0.0.4 was there and is lost" in finding.told
    assert finding.advice
    assert check_lost([]) == []


@pytest.mark.parametrize(
    ("cpus", "verdicts"), [([0.0, 1.0], []), ([0.0, 0.0], ["FAILED"]), ([0.0, 0.5], ["FAILED"])]
)
def test_a_cluster_without_a_cpu_for_a_trial_has_no_room(
    cpus: list[float], verdicts: list[str]
) -> None:
    found = check_room([node_with(cpus=number) for number in cpus])
    assert [finding.verdict for finding in found] == verdicts
    assert all("2 alive" in finding.told and "workers" in finding.advice for finding in found)


@pytest.mark.parametrize(
    ("missed", "verdict"), [([("10.0.0.2", 6379), ("10.0.0.2", 7001)], "FAILED"), ([], "ok")]
)
def test_a_node_that_doesnt_reach_others_is_named_with_their_ports(
    missed: list[tuple[str, int]], verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [node_with(head=True), node_with()]
    nodes[0].ports, nodes[1].ports = [7001, 7002], [7003, 7004]
    asked: list[tuple[str, int]] = []

    def answer(_: object, method: str, wanted: list[tuple[str, int]]) -> dict[str, Any]:
        assert method == "unreachable"
        asked.extend(wanted)
        return {"10.0.0.2": [], "10.0.0.3": missed}

    monkeypatch.setattr(running_cluster, "ask", answer)
    (finding,) = running_cluster._reach(nodes, "10.0.0.2:6379")
    assert finding.verdict == verdict
    if missed:
        assert "node second (10.0.0.3) doesn't reach 10.0.0.2:6379, 10.0.0.2:7001" in finding.told
        assert "open every TCP port" in finding.advice
    every = {("10.0.0.2", 7001), ("10.0.0.2", 7002), ("10.0.0.3", 7003), ("10.0.0.3", 7004)}
    assert set(asked) == every | {("10.0.0.2", 6379)}


@pytest.mark.parametrize(
    ("token", "told"),
    [
        (TOKEN, "in no process list, and its file is its owner's alone"),
        (TOKEN | {"file": None, "file_mode": None}, "in no process list, and in no file either"),
    ],
)
def test_a_file_of_the_token_is_told_of_where_there_is_one(
    token: dict[str, Any], told: str
) -> None:
    for found in (
        check_this_node(node_with(token=token)),
        check_nodes([node_with(token=token)], HERE),
    ):
        assert [finding.told for finding in found if finding.check == "token"] == [told]
