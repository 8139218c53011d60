"""Data sets as loaded, split and scaled; FashionMNIST's files whole, damaged, or to be fetched."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import filelock
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distributed_fmlp import data, download
from distributed_fmlp.data import (
    Dataset,
    arrays_sha256,
    load_dataset,
    measure_scaling,
    stratified_split,
)
from distributed_fmlp.download import ARCHIVES, CLASS_NAMES, FOLDER, Archive
from distributed_fmlp.errors import DataError, OptionError

# --- a small FashionMNIST: the same four files in the same format, with little in them


def idx_gz(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return gzip.compress(head + array.tobytes(), mtime=0)


SMALL_ARRAYS = {
    "train_images": np.random.RandomState(1).randint(0, 256, (30, 28, 28)).astype(np.uint8),
    "train_labels": (np.arange(30) % 10).astype(np.uint8),
    "test_images": np.random.RandomState(2).randint(0, 256, (10, 28, 28)).astype(np.uint8),
    "test_labels": np.arange(10, dtype=np.uint8),
}
SMALL_FILES = {key: idx_gz(array) for key, array in SMALL_ARRAYS.items()}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for_small = {
        key: Archive(ARCHIVES[key].name, hashlib.md5(blob).hexdigest(), len(blob))
        for key, blob in SMALL_FILES.items()
    }
    monkeypatch.setattr(download, "ARCHIVES", for_small)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A per-user cache that is empty, and no FMLP_DATA_DIR."""
    monkeypatch.delenv("FMLP_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path / "cache")
    return tmp_path / "cache"


def fill(root: Path, *, without: str = "") -> Path:
    folder = root / FOLDER
    folder.mkdir(parents=True)
    for key, blob in SMALL_FILES.items():
        if key != without:
            (folder / ARCHIVES[key].name).write_bytes(blob)
    return root


def listing(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


class Mirror:
    """A real HTTP server for the files below a directory; counts what is asked for."""

    def __init__(self, root: Path) -> None:
        asked = self.asked = Counter[str]()

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                asked[self.path.strip("/")] += 1
                super().do_GET()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(root)))
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def mirror_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], Mirror]]:
    """Make torchvision's list of mirrors name a local server of one directory."""
    from torchvision.datasets import FashionMNIST

    started: list[Mirror] = []

    def start(root: Path) -> Mirror:
        started.append(Mirror(root))
        monkeypatch.setattr(FashionMNIST, "mirrors", [mirror.url for mirror in started])
        return started[-1]

    yield start
    for mirror in started:
        mirror.close()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror whose port is closed."""
    from torchvision.datasets import FashionMNIST

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setattr(FashionMNIST, "mirrors", [f"http://127.0.0.1:{port}/"])


def one_line(error: BaseException) -> str:
    assert "\n" not in str(error)
    return str(error)


# --- digits


def test_digits_has_every_image_once_as_uint8_rows_of_784(digits: Dataset) -> None:
    assert digits.train_images.dtype == digits.test_images.dtype == np.uint8
    assert digits.train_labels.dtype == digits.test_labels.dtype == np.int64
    assert digits.train_images.shape == (1797 - 359, 784)
    assert digits.test_images.shape == (359, 784)
    assert digits.class_names == tuple("0123456789")
    assert not digits.substituted
    assert digits.location is None


def test_digits_images_keep_their_range_and_their_look(digits: Dataset) -> None:
    from sklearn.datasets import load_digits

    images = np.concatenate([digits.train_images, digits.test_images]).astype(float)
    assert images.min() == 0 and images.max() == 255
    # Averaged back to 8x8 each picture must be, of all the originals, most like its own.
    wide = images[:100].reshape(-1, 28, 28).repeat(2, axis=1).repeat(2, axis=2)
    small = wide.reshape(-1, 8, 7, 8, 7).mean(axis=(2, 4)).reshape(-1, 64) * 16 / 255
    source = load_digits()
    distances = ((small[:, None] - source.data[None]) ** 2).sum(axis=2)
    labels = np.concatenate([digits.train_labels, digits.test_labels])[:100]
    assert (source.target[distances.argmin(axis=1)] == labels).all()


def test_digits_are_read_as_scikit_learn_reads_them() -> None:
    from sklearn.datasets import load_digits

    images, labels = data._digits_of_scikit_learn()
    source = load_digits()
    assert np.array_equal(images, source.images) and np.array_equal(labels, source.target)
    assert images.dtype == labels.dtype == np.int64


def test_loading_digits_imports_neither_torch_nor_scikit_learn() -> None:
    code = (
        "import sys; from distributed_fmlp.data import load_dataset; load_dataset('digits'); "
        "print({'torch', 'sklearn', 'scipy', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_enlarging_is_bilinear_interpolation_as_torch_does_it() -> None:
    import torch

    images = np.random.RandomState(0).randint(0, 17, (20, 8, 8))
    exact = torch.nn.functional.interpolate(
        torch.tensor(images, dtype=torch.float64)[:, None], size=28, mode="bilinear"
    )
    difference = data._enlarge(images) - (exact.numpy().reshape(-1, 784) * 255 / 16)
    assert np.abs(difference).max() <= 0.5 + 1e-9


def test_digits_is_the_same_on_every_load(digits: Dataset) -> None:
    again = load_dataset("digits")
    assert again.sha256 == digits.sha256
    assert (again.test_images == digits.test_images).all()


def test_digits_test_set_has_each_class_in_proportion(digits: Dataset) -> None:
    train, test = np.bincount(digits.train_labels), np.bincount(digits.test_labels)
    assert np.abs(test - 0.2 * (train + test)).max() < 1


def test_arrays_are_read_only(digits: Dataset) -> None:
    for array in (digits.train_images, digits.train_labels, digits.test_images, digits.test_labels):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


# --- names and directories


def test_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"mnist.*auto, fashion-mnist, digits") as caught:
        load_dataset("mnist")
    one_line(caught.value)


@pytest.mark.parametrize("name", data.NAMES)
def test_data_dir_that_is_not_there_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere doesn't exist") as caught:
        load_dataset(name, tmp_path / "nowhere")
    one_line(caught.value)


@pytest.mark.usefixtures("small")
def test_files_become_the_arrays_that_they_hold(tmp_path: Path) -> None:
    got = load_dataset("fashion-mnist", fill(tmp_path / "here"))
    assert (got.train_images == SMALL_ARRAYS["train_images"].reshape(30, 784)).all()
    assert (got.test_images == SMALL_ARRAYS["test_images"].reshape(10, 784)).all()
    assert got.train_labels.tolist() == SMALL_ARRAYS["train_labels"].tolist()
    assert got.test_labels.tolist() == list(range(10))
    assert got.train_labels.dtype == got.test_labels.dtype == np.int64
    assert got.class_names == CLASS_NAMES
    assert got.name == "fashion-mnist" and not got.substituted


@pytest.mark.usefixtures("small", "offline")
def test_data_dir_comes_before_the_environment_and_that_before_the_cache(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, environment = tmp_path / "given", tmp_path / "environment"
    fill(cache)
    assert load_dataset("fashion-mnist").location == str(cache)
    monkeypatch.setenv("FMLP_DATA_DIR", str(fill(environment)))
    assert load_dataset("fashion-mnist").location == str(environment)
    given.mkdir()
    assert load_dataset("fashion-mnist", given).location == str(environment)
    assert load_dataset("fashion-mnist", fill(given / "full")).location == str(given / "full")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["fashion-mnist", "auto"])
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "doesn't exist"),
        ("~nobody-of-this-name/data", "doesn't exist"),
        ("file", "isn't a directory"),
        ("empty", "doesn't hold all four files"),
        ("partial", "doesn't hold all four files"),
    ],
)
def test_a_variable_that_is_set_wrong_is_an_error_and_nothing_makes_up_for_it(
    name: str,
    kind: str,
    said: str,
    tmp_path: Path,
    cache: Path,
    mirror_of: Callable[[Path], Mirror],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mirror = mirror_of(fill(tmp_path / "mirror") / FOLDER)
    fill(cache)
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    fill(tmp_path / "partial", without="test_labels")
    given = kind if kind.startswith("~") else str(tmp_path / kind)
    monkeypatch.setenv("FMLP_DATA_DIR", given)
    with pytest.raises(DataError, match=said) as caught:
        load_dataset(name)
    message = one_line(caught.value)
    assert f"FMLP_DATA_DIR is {given}" in message and "unset it" in message
    assert not mirror.asked
    # What doesn't need it, and what says something else, goes on.
    assert load_dataset("digits").name == "digits"
    assert load_dataset(name, fill(tmp_path / "here")).location == str(tmp_path / "here")


@pytest.mark.usefixtures("small")
def test_an_empty_variable_is_none(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(cache)
    monkeypatch.setenv("FMLP_DATA_DIR", "")
    assert load_dataset("auto").location == str(cache)


@pytest.mark.usefixtures("small")
def test_reading_whole_files_writes_nothing(tmp_path: Path, cache: Path) -> None:
    root = fill(tmp_path / "here")
    before = sorted(tmp_path.rglob("*")), listing(root)
    load_dataset("auto", root)
    assert (sorted(tmp_path.rglob("*")), listing(root)) == before


# --- damaged files


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["fashion-mnist", "auto"])
@pytest.mark.parametrize("key", list(ARCHIVES))
@pytest.mark.parametrize("damage", ["truncated", "corrupt"])
def test_damaged_file_is_named_with_what_to_do_and_left_alone(
    name: str, key: str, damage: str, tmp_path: Path, mirror_of: Callable[[Path], Mirror]
) -> None:
    mirror = mirror_of(fill(tmp_path / "mirror") / FOLDER)
    root = fill(tmp_path / "here")
    path = root / FOLDER / ARCHIVES[key].name
    blob = bytearray(SMALL_FILES[key])
    if damage == "truncated":
        del blob[len(blob) // 2 :]
    else:
        blob[len(blob) // 2] ^= 1
    path.write_bytes(blob)
    before = listing(root)
    with pytest.raises(DataError) as caught:
        load_dataset(name, root)
    message = one_line(caught.value)
    assert str(path) in message and damage in message and "delete it" in message
    assert listing(root) == before
    assert not mirror.asked


@pytest.mark.usefixtures("small", "offline")
def test_damaged_file_beside_missing_ones_is_an_error_under_auto(tmp_path: Path) -> None:
    root = fill(tmp_path / "here", without="test_images")
    (root / FOLDER / ARCHIVES["train_labels"].name).write_bytes(b"")
    with pytest.raises(DataError, match=r"train-labels.*truncated"):
        load_dataset("auto", root)


@pytest.mark.parametrize(
    "plain", [b"", b"\0\0\x08\x01\0\0\0\x05abcd", b"\0\0\x0d\x01\0\0\0\1abcd", b"\0\0\x08\x03\0"]
)
def test_what_is_no_idx_file_of_bytes_is_refused(plain: bytes) -> None:
    with pytest.raises(DataError, match=r"a\.gz is not an IDX file"):
        download._parse_idx(gzip.compress(plain), "a.gz")
    with pytest.raises(DataError, match=r"a\.gz is not a gzip file"):
        download._parse_idx(plain, "a.gz")


# --- downloading


@pytest.mark.usefixtures("small")
def test_missing_files_are_fetched_into_the_cache_with_progress(
    tmp_path: Path, cache: Path, mirror_of: Callable[[Path], Mirror]
) -> None:
    mirror = mirror_of(fill(tmp_path / "mirror") / FOLDER)
    lines: list[str] = []
    got = load_dataset("auto", on_progress=lines.append)
    assert got.name == "fashion-mnist" and got.location == str(cache)
    assert all(any(a.name in line and "100 %" in line for line in lines) for a in ARCHIVES.values())
    assert set(mirror.asked.values()) == {1} and len(mirror.asked) == 4
    assert load_dataset("auto").sha256 == got.sha256
    assert sum(mirror.asked.values()) == 4
    left = {path.name for path in (cache / FOLDER).iterdir()}
    assert left - {download.LOCK_NAME} == {archive.name for archive in ARCHIVES.values()}


@pytest.mark.usefixtures("small")
def test_data_dir_is_downloaded_into_and_only_what_is_missing(
    tmp_path: Path, cache: Path, mirror_of: Callable[[Path], Mirror]
) -> None:
    mirror = mirror_of(fill(tmp_path / "mirror") / FOLDER)
    root = fill(tmp_path / "here", without="test_labels")
    assert load_dataset("fashion-mnist", root).location == str(root)
    assert dict(mirror.asked) == {ARCHIVES["test_labels"].name: 1}
    assert not cache.exists()


@pytest.mark.usefixtures("small")
def test_a_file_that_arrives_damaged_never_gets_its_name(
    tmp_path: Path, cache: Path, mirror_of: Callable[[Path], Mirror]
) -> None:
    served = fill(tmp_path / "mirror") / FOLDER
    bad = served / ARCHIVES["test_images"].name
    for blob in (bad.read_bytes()[:-9], bad.read_bytes()[:-1] + b"x", b"<html>" * 100_000):
        bad.write_bytes(blob)
        mirror_of(served)
        lines: list[str] = []
        with pytest.raises(DataError, match=r"t10k-images.*wrong MD5") as caught:
            load_dataset("fashion-mnist", on_progress=lines.append)
        one_line(caught.value)
        shown = re.findall(r"(\d+) %", " ".join(lines))
        assert max(map(int, shown), default=0) <= 100  # what is too long isn't read on
        names = {path.name for path in (cache / FOLDER).iterdir()}
        assert bad.name not in names
        assert not [name for name in names if name.startswith(download.TEMPORARY_PREFIX)]


@pytest.mark.usefixtures("small")
def test_the_next_mirror_is_asked_when_one_fails(
    tmp_path: Path, mirror_of: Callable[[Path], Mirror]
) -> None:
    (tmp_path / "empty").mkdir()
    empty = mirror_of(tmp_path / "empty")
    full = mirror_of(fill(tmp_path / "mirror") / FOLDER)
    assert load_dataset("fashion-mnist").name == "fashion-mnist"
    assert len(empty.asked) == len(full.asked) == 4


@pytest.mark.usefixtures("small")
def test_what_a_killed_download_left_is_cleared_away(
    tmp_path: Path, cache: Path, mirror_of: Callable[[Path], Mirror]
) -> None:
    mirror_of(fill(tmp_path / "mirror") / FOLDER)
    stale = cache / FOLDER / f"{download.TEMPORARY_PREFIX}killed"
    stale.mkdir(parents=True)
    (stale / ARCHIVES["train_images"].name).write_bytes(b"half")
    load_dataset("fashion-mnist")
    assert not stale.exists()


@pytest.mark.usefixtures("offline")
def test_auto_takes_digits_when_offline_and_says_so(cache: Path, digits: Dataset) -> None:
    lines: list[str] = []
    got = load_dataset("auto", on_progress=lines.append)
    assert got.substituted and got.name == "digits" and got.sha256 == digits.sha256
    assert "taking digits instead" in lines[-1]
    assert [p.name for p in cache.rglob("*") if p.is_file()] in ([], [download.LOCK_NAME])


@pytest.mark.usefixtures("offline")
def test_fashion_mnist_is_strict_when_offline() -> None:
    with pytest.raises(DataError, match=r"can't be downloaded.*--data-dir.*digits") as caught:
        load_dataset("fashion-mnist")
    one_line(caught.value)


def test_a_mirror_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import FashionMNIST

    assert download.MIRROR_SECONDS <= 10
    monkeypatch.setattr(download, "MIRROR_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        monkeypatch.setattr(FashionMNIST, "mirrors", [url])
        start = time.monotonic()
        assert load_dataset("auto").substituted
        assert time.monotonic() - start < 5


def test_a_name_that_is_never_resolved_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    end = threading.Event()
    monkeypatch.setattr(download, "MIRROR_SECONDS", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: end.wait(20) and [])
    start = time.monotonic()
    assert load_dataset("auto").substituted
    assert time.monotonic() - start < 10
    end.set()


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Without root's right to write anywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("name", ["fashion-mnist", "auto"])
def test_unwritable_directory_is_an_error_before_anything_is_fetched(name: str) -> None:
    with tempfile.TemporaryDirectory() as parent:
        root = Path(parent, "read-only")
        root.mkdir()
        Path(parent).chmod(0o755)
        root.chmod(0o555)
        with unprivileged(), pytest.raises(DataError, match=r"make it writable") as caught:
            load_dataset(name, root)
        assert str(root) in one_line(caught.value)
        assert not list(root.iterdir())
        root.chmod(0o755)


def test_file_where_a_directory_should_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "FashionMNIST").write_text("in the way")
    with pytest.raises(DataError, match=r"can't be downloaded to"):
        load_dataset("fashion-mnist", tmp_path)


@pytest.mark.parametrize("name", ["fashion-mnist", "auto"])
def test_unreadable_cache_is_an_error_that_says_what_to_do(name: str, cache: Path) -> None:
    cache.mkdir()
    cache.chmod(0o000)
    with unprivileged(), pytest.raises(DataError, match=r"can't be read.*--data-dir") as caught:
        load_dataset(name)
    assert str(cache) in one_line(caught.value)
    cache.chmod(0o755)


@pytest.mark.usefixtures("small")
def test_read_only_data_is_read() -> None:
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        root = fill(Path(parent, "root"))
        folders = [root, root / "FashionMNIST", root / FOLDER]
        for folder in folders:
            folder.chmod(0o555)
        with unprivileged():
            assert load_dataset("fashion-mnist", root).location == str(root)
        for folder in folders:
            folder.chmod(0o755)


@pytest.mark.usefixtures("small")
def test_a_second_process_waits_and_then_finds_the_files(
    tmp_path: Path, cache: Path, mirror_of: Callable[[Path], Mirror]
) -> None:
    mirror = mirror_of(fill(tmp_path / "mirror") / FOLDER)
    folder = cache / FOLDER
    folder.mkdir(parents=True)
    waiting = threading.Event()
    got: list[Dataset] = []

    def load() -> None:
        got.append(load_dataset("auto", on_progress=lambda line: waiting.set()))

    with filelock.FileLock(folder / download.LOCK_NAME):
        other = threading.Thread(target=load)
        other.start()
        assert waiting.wait(10)
        for key, blob in SMALL_FILES.items():
            (folder / ARCHIVES[key].name).write_bytes(blob)
    other.join(10)
    assert got[0].name == "fashion-mnist" and not got[0].substituted
    assert not mirror.asked


DOWNLOADER = """
import sys
from pathlib import Path
from distributed_fmlp import download
from distributed_fmlp.data import load_dataset
download._mirrors = lambda: [sys.argv[1]]
print(load_dataset("fashion-mnist", Path(sys.argv[2])).sha256)
"""


@pytest.mark.slow
def test_three_processes_at_once_fetch_each_real_file_once(
    data_dir: Path, real_data: Dataset, tmp_path: Path
) -> None:
    mirror = Mirror(data_dir / FOLDER)
    root = tmp_path / "root"
    root.mkdir()
    command = [sys.executable, "-c", DOWNLOADER, mirror.url, str(root)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    try:
        answers = [process.communicate(timeout=120)[0].strip() for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
        mirror.close()
    assert answers == [real_data.sha256] * 3
    assert mirror.asked == {archive.name: 1 for archive in ARCHIVES.values()}


# --- the real files


def test_table_of_files_and_classes_is_torchvisions() -> None:
    from torchvision.datasets import FashionMNIST

    assert [(a.name, a.md5) for a in ARCHIVES.values()] == FashionMNIST.resources
    assert list(CLASS_NAMES) == FashionMNIST.classes


def test_real_data_is_fashion_mnist(real_data: Dataset, data_dir: Path) -> None:
    assert real_data.train_images.shape == (60_000, 784)
    assert real_data.test_images.shape == (10_000, 784)
    assert np.bincount(real_data.train_labels).tolist() == [6000] * 10
    assert np.bincount(real_data.test_labels).tolist() == [1000] * 10
    sizes = [(data_dir / FOLDER / archive.name).stat().st_size for archive in ARCHIVES.values()]
    assert sizes == [archive.size for archive in ARCHIVES.values()]


def test_real_data_is_what_torchvision_reads(
    real_data: Dataset, data_dir: Path, tmp_path: Path
) -> None:
    from torchvision.datasets import FashionMNIST
    from torchvision.datasets.utils import extract_archive

    (tmp_path / FOLDER).mkdir(parents=True)
    for archive in ARCHIVES.values():
        extract_archive(str(data_dir / FOLDER / archive.name), str(tmp_path / FOLDER))
    theirs = FashionMNIST(tmp_path, train=False)
    assert (theirs.data.numpy().reshape(-1, 784) == real_data.test_images).all()
    assert (theirs.targets.numpy() == real_data.test_labels).all()
    train = FashionMNIST(tmp_path, train=True)
    assert (train.data.numpy().reshape(-1, 784) == real_data.train_images).all()
    assert (train.targets.numpy() == real_data.train_labels).all()


def test_loading_real_data_imports_no_torch(data_dir: Path) -> None:
    code = (
        "import sys; from distributed_fmlp.data import load_dataset; load_dataset('fashion-mnist');"
        "sys.exit(bool({'torch', 'ray', 'sklearn', 'pandas'} & set(sys.modules)))"
    )
    environment = {**os.environ, "FMLP_DATA_DIR": str(data_dir)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


def test_real_split_and_scaling_of_the_default_run(real_data: Dataset) -> None:
    split = stratified_split(real_data.train_labels, 0.2)
    assert len(split.train_indices) == 48_000
    assert np.bincount(real_data.train_labels[split.val_indices]).tolist() == [1200] * 10
    scaling = measure_scaling(real_data.train_images)
    assert scaling.mean == pytest.approx(0.2860, abs=5e-5)  # as often quoted for all 60,000
    assert scaling.std == pytest.approx(0.3530, abs=5e-5)


# --- what identifies a data set


def test_sha256_is_made_as_its_description_says(digits: Dataset) -> None:
    expected = hashlib.sha256()
    for array, dtype in (
        (digits.train_images, "|u1"),
        (digits.train_labels, "<i8"),
        (digits.test_images, "|u1"),
        (digits.test_labels, "<i8"),
    ):
        expected.update(f"{dtype} {'x'.join(str(n) for n in array.shape)}\n".encode())
        expected.update(array.tobytes())
    expected.update(json.dumps(list(digits.class_names)).encode())
    assert digits.sha256 == expected.hexdigest()


def test_sha256_changes_with_any_array_or_class_name(digits: Dataset) -> None:
    def sha256(dataset: Dataset) -> str:
        return arrays_sha256(
            dataset.train_images,
            dataset.train_labels,
            dataset.test_images,
            dataset.test_labels,
            dataset.class_names,
        )

    seen = {sha256(digits)}
    for field in ("train_images", "train_labels", "test_images", "test_labels"):
        changed = getattr(digits, field).copy()
        changed.flat[-1] ^= 1
        seen.add(sha256(replace(digits, **{field: changed})))
    seen.add(sha256(replace(digits, class_names=(*digits.class_names[:-1], "nine"))))
    assert len(seen) == 6
    assert sha256(replace(digits, name="other", substituted=True)) == digits.sha256


# --- splitting


@settings(max_examples=200, deadline=None)
@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=12),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32 - 1),
)
def test_split_is_a_partition_of_exact_size_in_proportion(
    counts: list[int], fraction: float, seed: int
) -> None:
    labels = np.random.RandomState(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    try:
        split = stratified_split(labels, fraction, seed)
    except OptionError as error:
        one_line(error)
        wanted = [round(fraction * len(labels)) * n / len(labels) for n in counts]
        assert any(w < 1 or n - w < 1 for w, n in zip(wanted, counts, strict=True))
        return
    both = np.concatenate([split.train_indices, split.val_indices])
    assert (np.sort(both) == np.arange(len(labels))).all()
    assert (np.diff(split.train_indices) > 0).all() and (np.diff(split.val_indices) > 0).all()
    assert len(split.val_indices) == round(fraction * len(labels))
    assert split.train_indices.dtype == split.val_indices.dtype == np.int64
    taken = np.bincount(labels[split.val_indices], minlength=len(counts))
    exact = len(split.val_indices) * np.array(counts) / len(labels)
    assert np.abs(taken - exact).max() < 1
    assert (taken > 0).all() and (taken < counts).all()


SPLIT_SHA256 = "083bd1413c3b14e45a24699b53740c0e6ff1aa3ba2abd02a5d7ff37990afbae6"


def test_split_is_fixed_by_its_seed_and_never_changes() -> None:
    labels = np.arange(1000) % 10
    first, again, other = (stratified_split(labels, 0.2, seed) for seed in (0, 0, 1))
    assert (first.val_indices == again.val_indices).all()
    assert first.sha256 == again.sha256 != other.sha256
    assert first.sha256 == hashlib.sha256(first.val_indices.astype("<i8").tobytes()).hexdigest()
    assert first.sha256 == SPLIT_SHA256


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan"), float("inf")])
def test_fraction_outside_0_to_1_is_refused(fraction: float) -> None:
    with pytest.raises(OptionError, match="between 0 and 1") as caught:
        stratified_split(np.arange(100) % 10, fraction)
    one_line(caught.value)


@pytest.mark.parametrize(("fraction", "side"), [(0.001, "validation"), (0.999, "training")])
def test_fraction_that_empties_a_class_is_refused(fraction: float, side: str) -> None:
    with pytest.raises(OptionError, match=rf"class \d .*no {side} image") as caught:
        stratified_split(np.arange(1000) % 10, fraction)
    one_line(caught.value)


# --- scaling


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 255), min_size=2, max_size=200).filter(lambda x: len(set(x)) > 1))
def test_scaling_is_the_mean_and_deviation_of_pixels_over_255(pixels: list[int]) -> None:
    scaling = measure_scaling(np.array(pixels, dtype=np.uint8))
    scaled = np.array(pixels) / 255
    assert scaling.mean == pytest.approx(scaled.mean(), rel=1e-12)
    assert scaling.std == pytest.approx(scaled.std(), rel=1e-9)


def test_scaling_does_not_depend_on_order_or_layout() -> None:
    images = np.random.RandomState(0).randint(0, 256, (2000, 784)).astype(np.uint8)
    assert measure_scaling(images) == measure_scaling(images[::-1, ::-1])
    assert measure_scaling(images) == measure_scaling(np.asfortranarray(images))


@pytest.mark.parametrize("images", [np.full((3, 784), 7), np.zeros((0, 784))])
def test_images_without_contrast_are_refused(images: np.ndarray) -> None:
    with pytest.raises(DataError, match="of one grey"):
        measure_scaling(images.astype(np.uint8))
