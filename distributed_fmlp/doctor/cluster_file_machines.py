"""Whether a cluster file's machines have room, are started, and reach the storage."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from distributed_fmlp.doctor.cluster_file import ClusterFile
from distributed_fmlp.doctor.cluster_file_hosts import check_hosts
from distributed_fmlp.doctor.findings import Finding, failed, note, ok
from distributed_fmlp.doctor.shared_storage import check_storage_here

# The head runs Ray's own processes (2 GB) and the sweep's driver beside them.
LEAST_HEAD_GIB = 8
LEAST_DISK_GB = 40  # torch built for CUDA, twice while it is installed, and Ray's spilled objects
_AWS_SMALL = re.compile(r"\.(?:nano|micro|small|medium)$")
_AWS_LARGE = re.compile(r"^(c\d\w*)\.large$")  # 4 GiB
_GCP_SMALL = re.compile(r"(?:micro|small|medium|standard-1|highcpu-(?:1|2|4))$")
# By provider: what it must name, and by what key a node type names its machine.
_CLOUDS = {
    "aws": (("region",), ("InstanceType",)),
    "gcp": (("project_id", "region", "availability_zone"), ("machineType", "acceleratorType")),
}
_V2_ON = re.compile(r"RAY_enable_autoscaler_v2=1")
_V2_OFF = re.compile(r"export\s[^;&|]*RAY_enable_autoscaler_v2=0|RAY_enable_autoscaler_v2=0\s+ray")


def check_machines(file: ClusterFile, storage: str | None) -> list[Finding]:
    """The head, the workers, the autoscaler and the storage."""
    found = [*_provider(file), *_head(file), *_workers(file), *_autoscaler(file)]
    if file.provider == "aws":
        found += _image(file)
    return [*found, *_storage(file, storage)]


def _provider(file: ClusterFile) -> list[Finding]:
    """What Ray asks of a provider only when it already makes machines; silent where all is well."""
    if file.provider == "local":
        return check_hosts(file.written["provider"])
    if file.provider not in _CLOUDS:
        return [
            note(
                "provider",
                f"what {file.provider} needs isn't known here: its machines, images, rights and "
                "ports were not checked",
                "see to them by Ray's documentation",
            )
        ]
    needed, machine = _CLOUDS[file.provider]
    found = [
        failed("provider", f"names no {key}, which {file.provider} needs", f"set provider.{key}")
        for key in needed
        if not file.written["provider"].get(key)
    ]
    found += [
        failed(
            "machine",
            f"{name} names no {machine[0]}",
            f"give its node_config one, as cluster/ does (provider.type is {file.provider})",
        )
        for name, kind in file.node_types.items()
        if not any((kind.get("node_config") or {}).get(key) for key in machine)
    ]
    return found


def _head(file: ClusterFile) -> list[Finding]:
    kind = file.node_types.get(file.head_type or "")
    if kind is None:
        return []
    config: Mapping[str, Any] = kind.get("node_config") or {}
    machine = str(config.get("InstanceType") or config.get("machineType") or "")
    found = []
    if any(pattern.search(machine) for pattern in (_AWS_SMALL, _AWS_LARGE, _GCP_SMALL)):
        found.append(
            failed(
                "head",
                f"{machine} has no room for Ray's processes and a sweep's driver",
                f"take one with {LEAST_HEAD_GIB} GiB of memory or more (m7i.large, e2-standard-2)",
            )
        )
    if _is_spot(config):
        found.append(
            failed(
                "head",
                "is a spot machine: when it is taken away, the whole cluster is",
                "leave InstanceMarketOptions or scheduling out of its node_config",
            )
        )
    found += _disks(file)
    return found or [ok("head", f"{machine or file.head_type}, on demand")]


def _disks(file: ClusterFile) -> list[Finding]:
    return [
        failed(
            "disk",
            f"{name} has {size} GB, or its image's own few" if size else f"{name} names no size",
            f"give at least {LEAST_DISK_GB} GB: torch and CUDA alone take 10",
        )
        for name, kind in file.node_types.items()
        if (size := _disk_gb(kind.get("node_config") or {})) < LEAST_DISK_GB
    ]


def _disk_gb(config: Mapping[str, Any]) -> int:
    """Size of the largest disk that a node's configuration names; 0 where it names none."""
    sizes = [0]
    for mapping in config.get("BlockDeviceMappings") or []:
        sizes.append(int((mapping.get("Ebs") or {}).get("VolumeSize") or 0))
    for disk in config.get("disks") or []:
        sizes.append(int((disk.get("initializeParams") or {}).get("diskSizeGb") or 0))
    return max(sizes)


def _is_spot(config: Mapping[str, Any]) -> bool:
    if (config.get("InstanceMarketOptions") or {}).get("MarketType") == "spot":
        return True
    scheduling = config.get("scheduling") or {}
    parts = scheduling if isinstance(scheduling, list) else [scheduling]
    return any(part.get("preemptible") or part.get("provisioningModel") == "SPOT" for part in parts)


def _workers(file: ClusterFile) -> list[Finding]:
    """Whether anything beside the head can come up, and goes again when it is idle."""
    most = int(file.completed.get("max_workers") or 0)
    kinds = {name: kind for name, kind in file.node_types.items() if name != file.head_type}
    head = file.node_types.get(file.head_type or "") or {}
    found = []
    if file.provider != "local" and (not kinds or most == 0):
        if (head.get("resources") or {}).get("CPU") == 0:
            found.append(
                failed("room", "no node offers a CPU to trials", "allow workers (max_workers)")
            )
        else:
            found.append(note("workers", "none are allowed", "max_workers lets some be added"))
    if kinds and not file.written.get("idle_timeout_minutes"):
        found.append(
            failed("idle", "nothing says when idle workers end", "set idle_timeout_minutes")
        )
    if found:
        return found
    idle = file.written.get("idle_timeout_minutes")
    until = f", idle ones end after {idle} min" if kinds else ""
    return [ok("workers", f"at most {most}{until}")]


def _autoscaler(file: ClusterFile) -> list[Finding]:
    starts = file.starts("head")
    if not starts:
        return [
            failed("autoscaler", "no command starts Ray on the head", "see cluster/onprem.yaml")
        ]
    if not any("--autoscaling-config" in line for line in starts):
        return [
            failed(
                "autoscaler",
                "the head is started without --autoscaling-config, so no worker ever comes",
                "add --autoscaling-config=~/ray_bootstrap_config.yaml to its ray start",
            )
        ]
    if not file.starts("worker"):
        return [
            failed("autoscaler", "no command starts Ray on the workers", "see cluster/onprem.yaml")
        ]
    if file.provider != "local":
        return [ok("autoscaler", "started with the head")]
    if any(_V2_ON.search(line) for line in starts) or not any(map(_V2_OFF.search, starts)):
        return [
            failed(
                "autoscaler",
                "ray up turns the second autoscaler on, which never starts a local provider's "
                "workers and says nothing",
                "export RAY_enable_autoscaler_v2=0 before ray start, in the same one of "
                "head_start_ray_commands",
            )
        ]
    return [ok("autoscaler", "the first one, which starts a local provider's workers")]


def _image(file: ClusterFile) -> list[Finding]:
    missing = [
        name
        for name, kind in file.node_types.items()
        if str((kind.get("node_config") or {}).get("ImageId") or "latest_dlami") == "latest_dlami"
    ]
    if missing:
        return [
            failed(
                "image",
                f"{name} names no ImageId: Ray takes Ubuntu 18.04, whose C library is too old for "
                "this torch",
                "name one with Ubuntu 22.04 or newer, as cluster/config.yaml does",
            )
            for name in missing
        ]
    return [ok("image", "each node type names its own")]


def _storage(file: ClusterFile, storage: str | None) -> list[Finding]:
    if storage is None:
        return [note("storage", "not checked", "give the sweep's --storage to have it checked")]
    if "://" in storage:
        return [check_storage_here(storage)]
    if file.provider == "local" or any("mount" in line for line in file.setup):
        return [
            note(
                "storage",
                f"whether {storage} is one directory for all nodes can't be seen in a file",
                "ask again with --address when they run",
            )
        ]
    return [
        failed(
            "storage",
            f"{storage} is a directory of each node's own: no command mounts anything there",
            "give a bucket (s3://…, gs://…), or mount a shared file system in setup_commands",
        )
    ]
