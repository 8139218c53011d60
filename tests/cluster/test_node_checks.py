"""What is judged of one node's disk."""

from __future__ import annotations

import pytest

from distributed_fmlp.doctor.cluster_nodes import ExaminedNode
from distributed_fmlp.doctor.node_checks import check_this_node
from distributed_fmlp.doctor.node_facts import gather_facts

GIB = 1 << 30


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
    facts = gather_facts([], None) | {"disks": {"/there": {"free": free, "total": total}}}
    node = ExaminedNode("id", "127.0.0.1", True, 2.0, 0.0, [], facts=facts)
    told = [finding for finding in check_this_node(node) if finding.check == "disk"]
    assert [finding.verdict for finding in told] == verdicts
    assert all("/there" in finding.told for finding in told if finding.verdict != "ok")
