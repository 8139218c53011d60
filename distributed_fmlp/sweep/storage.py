"""Where a run's checkpoints lie: a directory or a bucket, behind one small face."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import os
import posixpath
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow
import pyarrow.fs

from distributed_fmlp.errors import StorageError
from distributed_fmlp.object_store import filesystem_of

_PROBE_SECONDS = 30.0
_PROBE_BYTES = 64 << 10
_LONGEST_PAUSE = 5.0  # s, between two tries of a storage that is away
# What finds a bucket, and is no secret; credentials belong to each node.
_WORKERS_VARIABLES = (
    "AWS_CA_BUNDLE",
    "AWS_DEFAULT_REGION",
    "AWS_EC2_METADATA_DISABLED",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_PROFILE",
    "AWS_REGION",
)
T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Storage:
    """A directory `root` on a file system that trials and driver both reach; can be pickled."""

    filesystem: Any  # pyarrow.fs.FileSystem, which has no type stubs
    root: str
    shown: str
    patience: float = 300.0  # s; how long one on a network may be away while trials go on

    @property
    def is_local(self) -> bool:
        return bool(self.filesystem.type_name == "local")

    def join(self, *parts: str) -> str:
        return posixpath.join(self.root, *parts)

    def directories(self, *parts: str) -> list[str]:
        """Names of the directories in a directory, sorted; none where it doesn't exist."""
        infos = self.patiently(lambda: self._list(*parts))
        return sorted(info.base_name for info in infos if info.type.name == "Directory")

    def exists(self, *parts: str) -> bool:
        info = self.filesystem.get_file_info(self.join(*parts))
        return bool(info.type.name != "NotFound")

    def read(self, *parts: str) -> bytes:
        """Raises `OSError` when the file isn't there or can't be read."""
        return self.patiently(lambda: self.read_now(*parts))

    def read_now(self, *parts: str) -> bytes:
        """As `read`, with no second try."""
        with self.filesystem.open_input_file(self.join(*parts)) as file:
            return bytes(file.read())

    def read_if_whole(self, *parts: str) -> bytes | None:
        """The file; `None` where it isn't there, or a disk of this machine has lost it.

        Raises `OSError` while the storage is away: that says nothing about the file.
        """
        try:
            return self.read(*parts)
        except FileNotFoundError:
            return None
        except OSError:
            if not self.is_local:
                raise
            return None

    def patiently(self, action: Callable[[], T]) -> T:
        """Do something that needs the storage; again and again while that is away.

        A file system of the machine is asked once: it waits itself, or its disk is full. Raises
        `FileNotFoundError` at once, any other `OSError` when patience has ended.
        """
        until = time.monotonic() + (0.0 if self.is_local else self.patience)
        pause = 0.5
        while True:
            try:
                return action()
            except FileNotFoundError:
                raise
            except OSError as error:
                if time.monotonic() + pause > until:
                    raise
                logger.warning("the storage is away, trying again: %s", _first_line(error))
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def write(self, content: bytes, *parts: str) -> None:
        self.filesystem.create_dir(posixpath.dirname(self.join(*parts)), recursive=True)
        with self.filesystem.open_output_stream(self.join(*parts)) as file:
            file.write(content)

    def delete_directory(self, *parts: str) -> None:
        self.filesystem.delete_dir(self.join(*parts))

    def check_writable(self) -> None:
        """Write and delete a small file. Raises `StorageError` when that can't be done."""
        name = f".probe-{uuid.uuid4().hex}"

        def probe() -> None:
            made = self.missing_directories()
            try:
                # An empty file can be written where not a byte is left.
                self.write(bytes(_PROBE_BYTES), name)
            finally:
                if self.exists(name):
                    self.filesystem.delete_file(self.join(name))
                for directory in made:
                    # Another sweep may have put something there meanwhile.
                    with contextlib.suppress(OSError):
                        os.rmdir(directory)

        _within(probe, self.shown)

    def missing_directories(self) -> list[str]:
        """The directories of this machine that writing into `root` would make, innermost first."""
        missing: list[str] = []
        if not self.is_local:
            return missing
        directory = self.root
        while directory and self.filesystem.get_file_info(directory).type.name == "NotFound":
            missing.append(directory)
            directory = posixpath.dirname(directory)
        return missing

    def _list(self, *parts: str) -> list[Any]:
        selector = pyarrow.fs.FileSelector(self.join(*parts), allow_not_found=True)
        return list(self.filesystem.get_file_info(selector))


def worker_environment() -> dict[str, str]:
    """Variables of this process that its workers need on every node to find the storage."""
    return {name: os.environ[name] for name in _WORKERS_VARIABLES if name in os.environ}


def open_storage(where: str | None, run_path: Path, name: str) -> Storage:
    """The place for the checkpoints of run `name`: `where`/`name`, else `run_path`/tune.

    Raises `StorageError` when `where` can't be understood.
    """
    if where is None:
        path = run_path.absolute() / "tune"
        return Storage(pyarrow.fs.LocalFileSystem(), path.as_posix(), str(path))
    if "://" not in where:
        path = Path(where).expanduser().absolute() / name
        return Storage(pyarrow.fs.LocalFileSystem(), path.as_posix(), str(path))
    # Neither a key before the host nor what follows a question mark is to be shown.
    scheme, _, rest = where.partition("?")[0].partition("://")
    host, slash, path_there = rest.rstrip("/").partition("/")
    if "@" in host:
        raise StorageError(
            f"--storage {scheme}://…@{host.rpartition('@')[2]} holds a key, which the run's files "
            "would keep: leave it out and set the provider's variables (AWS_ACCESS_KEY_ID, …)"
        )
    shown = f"{scheme}://{host.rpartition('@')[2]}{slash}{path_there}"
    try:
        filesystem, root = _within(lambda: filesystem_of(where), shown)
        if not root:
            raise ValueError("it names no place")
    except (pyarrow.ArrowInvalid, ValueError) as error:
        raise StorageError(
            f"--storage {shown} can't be used ({_first_line(error)}); give a directory, or a URI "
            "such as s3://bucket/path or gs://bucket/path"
        ) from error
    return Storage(filesystem, posixpath.join(root, name), f"{shown}/{name}")


def _within(action: Callable[[], T], shown: str) -> T:
    """Run something that may hang on a network. Raises `StorageError` if it fails or takes long."""
    done: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            done.set_result(action())
        except BaseException as error:
            done.set_exception(error)

    # Not a pool's thread, which Python would wait for at its end: for Google's client, a quarter of
    # an hour after the error was told.
    threading.Thread(target=run, daemon=True).start()
    try:
        return done.result(timeout=_PROBE_SECONDS)
    except concurrent.futures.TimeoutError as error:
        raise StorageError(
            f"the storage {shown} didn't answer within {_PROBE_SECONDS:.0f} s; check its address, "
            "or give another --storage"
        ) from error
    except OSError as error:
        raise StorageError(
            f"the storage {shown} can't be written ({_first_line(error)}); check its path and "
            "permissions, or give another --storage"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
