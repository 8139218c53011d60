"""Reads a cluster file without a cluster: as written, and as Ray validates and completes it."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from distributed_fmlp.doctor.findings import Finding, failed, ok
from distributed_fmlp.errors import ClusterError

_SOURCED = re.compile(r"(?:^|[;&|]\s*)(?:\.|source)\s+(\S+?)(?=[;&|\s]|$)")


@dataclass(frozen=True)
class ClusterFile:
    """A cluster file as it was written, and as Ray completes it with its defaults."""

    written: Mapping[str, Any]
    completed: Mapping[str, Any]

    @property
    def provider(self) -> str:
        return str(self.written["provider"]["type"])

    @property
    def node_types(self) -> Mapping[str, Mapping[str, Any]]:
        """Empty for machines that are there already."""
        return self.written.get("available_node_types") or {}

    @property
    def head_type(self) -> str | None:
        return self.written.get("head_node_type")

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
    config = _parse(path)
    try:
        completed = _ray_accepts(config)
    except _RefusedError as error:
        return None, [failed("Ray", f"refuses {path} ({error})", "mend what it names")]
    kind = config["provider"]["type"]
    return ClusterFile(config, completed), [ok("Ray", f"accepts {path} (provider {kind})")]


class _RefusedError(Exception):
    """Ray's own validation refuses a file."""


def _parse(path: str) -> dict[str, Any]:
    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ClusterError(
            f"--cluster {path} can't be read ({error.strerror}); give a file for ray up, such as "
            "cluster/onprem.yaml"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise ClusterError(
            f"--cluster {path} is not YAML ({getattr(error, 'problem', None) or error}{line}); "
            "mend it there"
        ) from error
    if isinstance(config, dict) and "apiVersion" in config:
        raise ClusterError(
            f"--cluster {path} is for Kubernetes, not for ray up: check it with kubectl apply "
            "--dry-run=server, and the running cluster with --address"
        )
    provider = config.get("provider") if isinstance(config, dict) else None
    if not isinstance(provider, dict) or not isinstance(provider.get("type"), str):
        raise ClusterError(
            f"--cluster {path} is no file for ray up: it names no provider.type; see "
            "cluster/onprem.yaml for one"
        )
    return dict(config)


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
    except jsonschema.ValidationError as error:
        place = ".".join(map(str, error.absolute_path)) or "the file"
        raise _RefusedError(f"{place}: {error.message}") from error
    except (click.ClickException, SystemExit) as error:
        # Ray has printed its reason and gives none here.
        lines = [line.strip() for line in said.getvalue().splitlines() if line.strip()]
        raise _RefusedError(lines[-1] if lines else str(error)) from error
    except Exception as error:  # it stumbles over what it doesn't expect, in any way
        lines = str(error).splitlines()
        raise _RefusedError(lines[0] if lines else type(error).__name__) from error
    return dict(completed)
