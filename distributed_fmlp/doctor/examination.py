"""Chooses what to examine, and tells what was found as it is found."""

from __future__ import annotations

from distributed_fmlp.doctor.findings import Finding, exit_status, summary
from distributed_fmlp.ray_session import configure_environment


def examine(
    cluster: str | None, address: str | None, storage: str | None, data_dir: str | None
) -> int:
    """Check a cluster file, a running cluster, both, or with neither this machine.

    Raises `UserError` when a file can't be read or no cluster answers.
    """
    configure_environment(private=address is None)
    found: list[Finding] = []
    if cluster is not None:
        from distributed_fmlp.doctor.cluster_file_checks import check_cluster_file

        found += _told(check_cluster_file(cluster, storage))
    if address is not None:
        from distributed_fmlp.doctor.running_cluster import check_cluster

        found += _told(check_cluster(address, storage, data_dir))
    if cluster is None and address is None:
        from distributed_fmlp.doctor.this_machine import check_this_machine

        found += _told(check_this_machine(storage, data_dir))
    print(summary(found))
    return exit_status(found)


def _told(findings: list[Finding]) -> list[Finding]:
    for finding in findings:
        print(finding.line(), flush=True)
    return findings
