"""Whether every node writes into, and reads from, one and the same storage."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from distributed_fmlp.doctor.cluster_nodes import ExaminedNode, ask
from distributed_fmlp.doctor.findings import Finding, failed, note, ok
from distributed_fmlp.errors import StorageError
from distributed_fmlp.sweep.storage import Storage, open_storage

_ADVICE = (
    "give --storage with what every node reaches and may write, with the same rights or mounts on "
    "each"
)


def check_storage(where: str | None, nodes: Sequence[ExaminedNode]) -> list[Finding]:
    """Each node writes a file and reads those of all the others; nothing is left behind."""
    if where is None:
        if len(nodes) < 2:
            return []
        return [note("storage", "not checked", "give the sweep's --storage to have it checked")]
    try:
        with _probed(where) as storage:
            return _check(storage, where, [node for node in nodes if node.error is None])
    except StorageError as error:
        return [failed("storage", f"from this machine: {error}", "a sweep would stop there")]


@contextlib.contextmanager
def _probed(where: str) -> Iterator[Storage]:
    """A place of this check's own in the storage, which this machine can write; then it is cleared.

    It is asked once and not waited for. Raises `StorageError` where it can't be written; then there
    is nothing to clear, and to ask again would take as long again.
    """
    name = f".doctor-{uuid.uuid4().hex}"
    opened = open_storage(where, Path(), name)
    # In what is told it goes by the name that it was given.
    storage = replace(opened, patience=0.0, shown=opened.shown.removesuffix(f"/{name}"))
    with _directories_kept(storage):
        storage.check_writable()
        try:
            yield storage
        finally:
            with contextlib.suppress(OSError):
                storage.delete_directory()


def check_storage_here(where: str) -> Finding:
    """Whether this machine alone can write there."""
    try:
        with _probed(where):
            pass
    except StorageError as error:
        return failed("storage", str(error), "a sweep would stop there")
    return ok("storage", f"{where} can be written")


def _check(storage: Storage, where: str, nodes: Sequence[ExaminedNode]) -> list[Finding]:
    try:
        wrong = ask(nodes, "write", storage)
        writers = [node for node in nodes if wrong.get(node.node_id, "") is None]
        found = [
            failed("storage", f"{node.name} can't write to {where} ({reason})", _ADVICE)
            for node in nodes
            if (reason := wrong.get(node.node_id, node.error)) is not None
        ]
        seen = ask(writers, "marks_seen", storage, [node.node_id for node in writers])
        found += _apart(where, writers, seen)
    finally:
        ask(nodes, "clear", storage)
    return found or [ok("storage", f"{where} is written by each node and read by all")]


def _apart(
    where: str, writers: Sequence[ExaminedNode], seen: dict[str, list[str]]
) -> list[Finding]:
    """Nodes that don't see what most of the others wrote: theirs is another directory."""

    def sees(reader: ExaminedNode, writer: ExaminedNode) -> bool:
        return writer.node_id in seen.get(reader.node_id, ())

    groups: list[list[ExaminedNode]] = []
    for node in writers:
        for group in groups:
            if sees(node, group[0]) and sees(group[0], node):
                group.append(node)
                break
        else:
            groups.append([node])
    if len(groups) < 2:
        return []
    # Of several as large, the head's is the one meant.
    meant = max(groups, key=lambda group: (len(group), any(node.is_head for node in group)))
    return [
        failed(
            "storage",
            f"{node.name} writes to a {where} of its own, which {meant[0].name} doesn't see",
            "mount the shared file system there, or give --storage with a URI (s3://…, gs://…)",
        )
        for group in groups
        if group is not meant
        for node in group
    ]


@contextlib.contextmanager
def _directories_kept(storage: Storage) -> Iterator[None]:
    """Take away again what a probe makes on this machine: the storage's own directory too."""
    root = Path(storage.root)
    missing: list[Any] = []
    if storage.is_local:
        missing = [path for path in (root, *root.parents) if not path.exists()]
    try:
        yield
    finally:
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()
