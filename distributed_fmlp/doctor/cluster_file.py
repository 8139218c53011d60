"""Reads a cluster file without a cluster: as written, and as Ray validates and completes it."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from distributed_fmlp.doctor.findings import Finding, failed, ok
from distributed_fmlp.errors import ClusterError

# What Ray's terminal puts before its reason, and around it.
_LOG_PREFIX = re.compile(r"^.*\t[A-Z]+ \S+ -- ")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_OBJECT: dict[str, Any] = {"type": ["object", "null"]}
_SIZE = {"type": ["integer", "string", "null"], "pattern": "^[0-9]+$"}


def _list_of(**properties: Any) -> dict[str, Any]:
    return {"type": ["array", "null"], "items": {"type": "object", "properties": properties}}


# The parts that Ray hands on to the cloud unread, and that are looked into here.
_NODE_TYPE = {
    "node_config": {
        **_OBJECT,
        "properties": {
            "BlockDeviceMappings": _list_of(Ebs={**_OBJECT, "properties": {"VolumeSize": _SIZE}}),
            "disks": _list_of(initializeParams={**_OBJECT, "properties": {"diskSizeGb": _SIZE}}),
            "InstanceMarketOptions": _OBJECT,
            "scheduling": {"anyOf": [_OBJECT, _list_of()]},
        },
    },
    "docker": _OBJECT,
    "resources": _OBJECT,
}
_RULES = _list_of(
    FromPort={"type": "integer"},
    ToPort={"type": "integer"},
    IpRanges=_list_of(),
    Ipv6Ranges=_list_of(),
)
_PARTS = {
    "properties": {
        "available_node_types": {
            **_OBJECT,
            "additionalProperties": {**_OBJECT, "properties": _NODE_TYPE},
        },
        "provider": {
            "properties": {"security_group": {**_OBJECT, "properties": {"IpPermissions": _RULES}}}
        },
    }
}
_MOST_PARTS = 100_000  # what Ray and its schema would go through, one by one
_SOURCED = re.compile(r"(?:^|[;&|]\s*)(?:\.|source)\s+(\S+?)(?=[;&|\s]|$)")


@dataclass(frozen=True)
class ClusterFile:
    """A cluster file as it was written, and as Ray completes it with its defaults."""

    text: str
    written: Mapping[str, Any]
    completed: Mapping[str, Any]

    @property
    def provider(self) -> str:
        return str(self.written["provider"]["type"])

    @property
    def node_types(self) -> Mapping[str, Mapping[str, Any]]:
        """Empty for machines that are there already; Ray's own where the file names none."""
        if self.provider == "local":
            return {}
        return self.completed.get("available_node_types") or {}

    @property
    def head_type(self) -> str | None:
        return self.completed.get("head_node_type")

    @property
    def mounts(self) -> Mapping[str, str]:
        """Local path by path on the nodes."""
        return self.written.get("file_mounts") or {}

    def commands(self, key: str) -> list[str]:
        """The commands under `key` as they will be run, Ray's defaults included."""
        return [str(command) for command in self.completed.get(key) or []]

    @property
    def setup(self) -> list[str]:
        """All set-up commands of head and workers, each once."""
        keys = ("initialization_commands", "head_setup_commands", "worker_setup_commands")
        return list(dict.fromkeys(line for key in keys for line in self.commands(key)))

    def images(self) -> list[str]:
        """The container images that nodes run, where they run any."""
        settings = [self.written.get("docker") or {}]
        settings += [kind.get("docker") or {} for kind in self.node_types.values()]
        keys = ("image", "head_image", "worker_image")
        return [str(setting[key]) for setting in settings for key in keys if setting.get(key)]

    def machine_images(self) -> list[str]:
        """The images that a cloud's machines boot from, where the file names them, each once."""
        configs = [kind.get("node_config") or {} for kind in self.node_types.values()]
        disks = [disk for config in configs for disk in config.get("disks") or []]
        named = [config.get("ImageId") for config in configs]
        named += [(disk.get("initializeParams") or {}).get("sourceImage") for disk in disks]
        return list(dict.fromkeys(str(image) for image in named if image))

    def starts(self, role: str) -> list[str]:
        """Each command that starts Ray on a `head` or `worker`, with the scripts it sources.

        Commands run in shells of their own: what one exports, the next doesn't have.
        """
        return [
            "\n".join([command, *filter(None, map(self._mounted, _SOURCED.findall(command)))])
            for command in self.commands(f"{role}_start_ray_commands")
            if "ray start" in command
        ]

    def _mounted(self, name: str) -> str | None:
        """The text of a script on the nodes, where it is one of this machine's files."""
        for remote, local in self.mounts.items():
            inside = name == remote or name.startswith(remote.rstrip("/") + "/")
            if inside:
                path = Path(local).expanduser() / name[len(remote) :].lstrip("/")
                with contextlib.suppress(OSError, UnicodeDecodeError):
                    return path.read_text(encoding="utf-8")
        return None


def read_cluster_file(path: str) -> tuple[ClusterFile | None, list[Finding]]:
    """Read and complete a file; without the first where Ray refuses it.

    Raises `ClusterError` when there is no such file or it is none for `ray up`.
    """
    text, config = _parse(path)
    try:
        completed = _ray_accepts(config)
    except _RefusedError as error:
        return None, [failed("Ray", f"refuses {path} ({error})", error.advice)]
    kind = config["provider"]["type"]
    return ClusterFile(text, config, completed), [ok("Ray", f"accepts {path} (provider {kind})")]


class _RefusedError(Exception):
    """Ray's own validation refuses a file, or a part that it doesn't read is of another kind."""

    def __init__(self, told: str, advice: str = "mend what it names") -> None:
        super().__init__(told)
        self.advice = advice


def _parse(path: str) -> tuple[str, dict[str, Any]]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ClusterError(
            f"--cluster {path} can't be read ({error.strerror}); give a file for ray up, such as "
            "cluster/onprem.yaml"
        ) from error
    except UnicodeDecodeError as error:
        raise _no_yaml(path, error) from error
    if re.search(r"^apiVersion:", text, flags=re.MULTILINE):
        raise ClusterError(
            f"--cluster {path} is for Kubernetes, not for ray up: check it with kubectl apply "
            "--dry-run=server, and the running cluster with --address"
        )
    try:
        config = yaml.safe_load(text)
    # Of YAML's own it lets through what a date that is none raises, and thousands of brackets.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _no_yaml(path, error) from error
    if _parts(config, {}) > _MOST_PARTS:
        raise ClusterError(
            f"--cluster {path} is no file for ray up: its aliases stand for more than "
            f"{_MOST_PARTS:,} parts, or for themselves; write out what they name"
        )
    provider = config.get("provider") if isinstance(config, dict) else None
    if not isinstance(provider, dict) or not isinstance(provider.get("type"), str):
        raise ClusterError(
            f"--cluster {path} is no file for ray up: it names no provider.type; see "
            "cluster/onprem.yaml for one"
        )
    return text, dict(config)


def _parts(value: Any, known: dict[int, float]) -> float:
    """How many values it is with all aliases written out; endless where one is part of itself."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if id(value) not in known:
        known[id(value)] = math.inf
        known[id(value)] = 1 + sum(_parts(part, known) for part in inside)
    return known[id(value)]


def _no_yaml(path: str, error: Exception) -> ClusterError:
    where = getattr(error, "problem_mark", None)
    line = f", line {where.line + 1}" if where else ""
    reason = " ".join(str(getattr(error, "problem", None) or error).split())
    return ClusterError(f"--cluster {path} is not YAML ({reason}{line}); mend it there")


def _ray_accepts(config: dict[str, Any]) -> dict[str, Any]:
    """The file completed by Ray; raises `_RefusedError` with its reason in one line."""
    import click
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepare: Any = prepare_config
    said = io.StringIO()
    logging.getLogger("ray").setLevel(logging.ERROR)  # it tells what it fills in
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            completed = prepare(config)
            validate_config(completed)
        jsonschema.validate(completed, _PARTS)
    except jsonschema.ValidationError as error:
        raise _RefusedError(_place_and_reason(error)) from error
    except (click.ClickException, SystemExit) as error:
        # Ray has printed its reason and gives none here.
        lines = [line.strip() for line in said.getvalue().splitlines() if line.strip()]
        told = _COLOURS.sub("", _LOG_PREFIX.sub("", lines[-1])) if lines else str(error)
        raise _RefusedError(told) from error
    except Exception as error:  # it stumbles over what it doesn't expect, in any way
        raise _stumbled(config, error) from error
    return dict(completed)


def _stumbled(config: dict[str, Any], error: Exception) -> _RefusedError:
    """What Ray's schema would have named, had Ray come to it; else what it stumbled over."""
    import jsonschema
    import ray.autoscaler

    path = Path(ray.autoscaler.__file__).with_name("ray-schema.json")
    schema = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    try:
        wrong = list(jsonschema.Draft7Validator(schema).iter_errors(config))
    except TypeError:
        return _RefusedError("a name in it is a number or the like", "put such names in quotes")
    for each in wrong:
        if each.validator != "required":  # Ray would have filled it in
            return _RefusedError(_place_and_reason(each))
    lines = str(error).splitlines()
    if isinstance(error, (ValueError, NotImplementedError)) and lines:  # Ray's own words
        return _RefusedError(lines[0])
    return _RefusedError(
        f"it stumbles, and says no more than: {lines[0] if lines else type(error).__name__}",
        "compare it with cluster/config.yaml or cluster/onprem.yaml, key by key",
    )


def _place_and_reason(error: Any) -> str:
    place = ".".join(map(str, error.absolute_path)) or "the file"
    return f"{place}: {' '.join(error.message.split())}"
