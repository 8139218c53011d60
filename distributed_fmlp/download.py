"""FashionMNIST's four files: found on disk and checked, or fetched from torchvision's mirrors.

The directory is a torchvision root: the files lie in `FashionMNIST/raw` below it. Nothing is
written where the files already are, so read-only data works.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import queue
import shutil
import tempfile
import threading
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

import filelock
import numpy as np
import numpy.typing as npt

from distributed_fmlp.errors import DataError

Progress = Callable[[str], None]

FOLDER = Path("FashionMNIST") / "raw"
CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

LOCK_NAME = ".download.lock"
TEMPORARY_PREFIX = ".download-"

MIRROR_SECONDS = 10.0  # to answer, and between two blocks of bytes
LOCK_SECONDS = 1800.0
BLOCK_BYTES = 1 << 18

_IDX_UINT8 = 0x08


@dataclass(frozen=True)
class Archive:
    """One gzip file as the mirrors serve it. The MD5 is torchvision's."""

    name: str
    md5: str
    size: int  # bytes


# torchvision has the same sums, but importing it takes seconds that every start would pay.
ARCHIVES: Mapping[str, Archive] = {
    "train_images": Archive(
        "train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d", 26_421_880
    ),
    "train_labels": Archive(
        "train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe", 29_515
    ),
    "test_images": Archive(
        "t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79", 4_422_102
    ),
    "test_labels": Archive("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310", 5_148),
}


class UnreachableError(DataError):
    """The files are nowhere on disk and no mirror gave them."""


def find(roots: Sequence[Path]) -> tuple[Path, dict[str, npt.NDArray[np.uint8]]] | None:
    """The first root that holds all four files, and their arrays (uint8) by `ARCHIVES` key.

    A root that holds some of them is passed over. Raises `DataError` when a file in any root looked
    at has the wrong MD5, or one in the first root can't be read.
    """
    for place, root in enumerate(roots):
        try:
            blobs = {key: _read(root / FOLDER / archive.name, archive) for key, archive in _items()}
        except _UnreadableError:
            # The first is what the user meant; a later one may be a home that isn't theirs.
            if place == 0:
                raise
            continue
        whole = {key: blob for key, blob in blobs.items() if blob is not None}
        if len(whole) == len(ARCHIVES):
            return root, {key: _parse_idx(blob, ARCHIVES[key].name) for key, blob in whole.items()}
    return None


def download(root: Path, progress: Progress) -> None:
    """Fetch the files that `root` lacks; each appears under its name only when its MD5 is right.

    Several processes may call this at once: one fetches, the others wait for it. Raises
    `UnreachableError` when no mirror gives a file, `DataError` when `root` can't be written.
    """
    folder = root / FOLDER
    made = [place for place in (folder, *folder.parents) if not os.path.exists(place)]
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        _download_into(folder, progress)
    except UnreachableError:
        _remove_empty(folder, made)
        raise


def _remove_empty(folder: Path, made: list[Path]) -> None:
    """Take back the directories that were made for files that couldn't be had.

    Another process may hold the lock that goes with them; at worst it fetches beside a third, and
    each file still appears whole.
    """
    if folder not in made:
        return
    with contextlib.suppress(OSError):
        (folder / LOCK_NAME).unlink(missing_ok=True)
        for place in made:
            place.rmdir()


def _download_into(folder: Path, progress: Progress) -> None:
    with _locked(folder, progress):
        missing = [
            archive for _, archive in _items() if _read(folder / archive.name, archive) is None
        ]
        if not missing:
            return
        with _writing(folder):
            # Whoever holds the lock is the only one fetching, so these are a killed process's.
            for stale in folder.glob(f"{TEMPORARY_PREFIX}*"):
                shutil.rmtree(stale, ignore_errors=True)
            temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=folder))
        try:
            mirrors = _mirrors()
            progress(f"FashionMNIST: downloading {len(missing)} files to {folder}")
            for archive in missing:
                _fetch(archive, mirrors, temporary / archive.name, progress)
                with _writing(folder):
                    os.replace(temporary / archive.name, folder / archive.name)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _items() -> list[tuple[str, Archive]]:
    return list(ARCHIVES.items())


def _read(path: Path, archive: Archive) -> bytes | None:
    """The file's bytes, or None when it isn't there."""
    try:
        blob = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _UnreadableError(
            f"{path} can't be read ({error.strerror}): make it readable, or name another "
            "directory with --data-dir"
        ) from error
    if hashlib.md5(blob, usedforsecurity=False).hexdigest() != archive.md5:
        what = "truncated" if len(blob) < archive.size else "corrupt"
        raise DataError(
            f"{path} is {what} (wrong MD5; {len(blob):,} of {archive.size:,} bytes): delete it and "
            "run again to download it, or put a good copy there"
        )
    return blob


def _parse_idx(blob: bytes, name: str) -> npt.NDArray[np.uint8]:
    """The uint8 array in a gzipped IDX file: two zero bytes, type, rank, big-endian sizes, data."""
    try:
        # Room for what comes out, so that zlib need not grow its buffer block by block.
        plain = zlib.decompress(blob, wbits=31, bufsize=max(1, int.from_bytes(blob[-4:], "little")))
    except zlib.error as error:
        raise DataError(f"{name} is not a gzip file ({error}): delete it and run again") from error
    rank = plain[3] if plain[:3] == bytes((0, 0, _IDX_UINT8)) else 0
    sizes = [int.from_bytes(plain[4 + 4 * i : 8 + 4 * i], "big") for i in range(rank)]
    start = 4 + 4 * rank
    if not rank or len(plain) != start + math.prod(sizes):
        raise DataError(f"{name} is not an IDX file of bytes: delete it and run again")
    return np.frombuffer(plain, dtype=np.uint8, offset=start).reshape(sizes)


def _mirrors() -> list[str]:
    from torchvision.datasets import FashionMNIST

    return list(FashionMNIST.mirrors)


def _fetch(archive: Archive, mirrors: Sequence[str], target: Path, progress: Progress) -> None:
    """Write `archive` to `target` from the first mirror that has it whole."""
    reasons = []
    for mirror in mirrors:
        try:
            _fetch_from(mirror + archive.name, archive, target, progress)
            return
        except _MirrorError as error:
            reasons.append(f"{urlsplit(mirror).hostname}: {error}")
    raise UnreachableError(f"{archive.name} can't be downloaded ({'; '.join(reasons)})")


class _UnreadableError(DataError):
    """A file, or the directory that would hold it, may not be read."""


class _MirrorError(Exception):
    """One mirror did not give the file; another may."""


def _fetch_from(url: str, archive: Archive, target: Path, progress: Progress) -> None:
    digest = hashlib.md5(usedforsecurity=False)
    received, shown = 0, -1
    with _reading(), _open(url) as response, _writing(target.parent), target.open("wb") as file:
        while True:
            with _reading():
                block = response.read(BLOCK_BYTES)
            if not block:
                break
            received += len(block)
            if received > archive.size:
                break
            digest.update(block)
            file.write(block)
            percent = 100 * received // archive.size
            if percent // 10 > shown:
                shown = percent // 10
                progress(
                    f"{archive.name}: {received / 1e6:.1f} of {archive.size / 1e6:.1f} MB "
                    f"({percent} %)"
                )
        file.flush()
        os.fsync(file.fileno())
    if digest.hexdigest() != archive.md5:
        raise _MirrorError(f"sent {received:,} bytes with the wrong MD5")


def _open(url: str) -> HTTPResponse:
    """Open `url`, or raise `TimeoutError` after `MIRROR_SECONDS`.

    urlopen's own time limit covers neither name resolution nor a host with many dead addresses.
    """
    answer: queue.Queue[HTTPResponse | Exception] = queue.Queue(1)

    def connect() -> None:
        try:
            request = urllib.request.Request(url, headers={"User-Agent": "distributed-fmlp"})
            answer.put(urllib.request.urlopen(request, timeout=MIRROR_SECONDS))
        except Exception as error:
            answer.put(error)

    threading.Thread(target=connect, name="open-mirror", daemon=True).start()
    try:
        got = answer.get(timeout=MIRROR_SECONDS)
    except queue.Empty:
        raise TimeoutError(f"no answer within {MIRROR_SECONDS:g} s") from None
    if isinstance(got, Exception):
        raise got
    return got


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise _MirrorError(" ".join(str(reason).split()) or type(error).__name__) from error


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"FashionMNIST can't be downloaded to {folder} ({error.strerror or error}): make it "
            "writable, or name a writable directory with --data-dir"
        ) from error


@contextlib.contextmanager
def _locked(folder: Path, progress: Progress) -> Iterator[None]:
    lock = filelock.FileLock(folder / LOCK_NAME)
    with _writing(folder):
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            progress(f"FashionMNIST: waiting for another process that downloads to {folder}")
            try:
                lock.acquire(timeout=LOCK_SECONDS)
            except filelock.Timeout as error:
                raise DataError(
                    f"another process has held {folder / LOCK_NAME} for {LOCK_SECONDS / 60:g} "
                    "minutes: end it, then run again"
                ) from error
    try:
        yield
    finally:
        lock.release()
