"""Where checkpoints go: real directories, and places that can't be had."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from distributed_fmlp.errors import StorageError
from distributed_fmlp.sweep import storage as storage_module
from distributed_fmlp.sweep.storage import open_storage


def test_checkpoints_go_into_the_run_directory_unless_told_otherwise(tmp_path: Path) -> None:
    storage = open_storage(None, tmp_path / "run", "run")
    assert storage.is_local
    assert storage.root == str(tmp_path / "run" / "tune") == storage.shown


def test_each_run_has_a_directory_of_its_own_in_a_given_storage(tmp_path: Path) -> None:
    for where in (str(tmp_path / "s"), f"file://{tmp_path}/s", f"file://{tmp_path}/s/"):
        storage = open_storage(where, tmp_path / "run", "one")
        assert storage.is_local
        assert storage.root.rstrip("/") == f"{tmp_path}/s/one"
        assert storage.shown.endswith("/s/one")


def test_files_are_written_read_listed_and_deleted(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path), tmp_path, "run")
    storage.write(b"\x00abc", "a", "b", "file")
    storage.write(b"", "a", "c", "file")
    assert storage.read("a", "b", "file") == b"\x00abc"
    assert storage.directories("a") == ["b", "c"]
    assert storage.directories("a", "b") == []  # a file is no directory
    assert storage.directories("nowhere") == []
    assert storage.exists("a", "b", "file")
    storage.delete_directory("a", "b")
    assert not storage.exists("a", "b")
    with pytest.raises(OSError, match="file"):
        storage.read("a", "b", "file")


def test_a_storage_goes_to_the_trials_by_pickle(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path), tmp_path, "run")
    storage.write(b"1", "file")
    assert pickle.loads(pickle.dumps(storage)).read("file") == b"1"


def test_checking_a_storage_leaves_nothing_behind(tmp_path: Path) -> None:
    open_storage(str(tmp_path / "deep" / "er"), tmp_path, "run").check_writable()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "there").mkdir()
    open_storage(str(tmp_path / "there"), tmp_path, "run").check_writable()
    assert [each.name for each in tmp_path.rglob("*")] == ["there"]


def test_checking_a_storage_that_is_in_use_leaves_what_is_there(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path), tmp_path, "run")
    storage.write(b"1", "attempt_0", "file")
    storage.check_writable()
    assert storage.read("attempt_0", "file") == b"1"
    assert [each.name for each in (tmp_path / "run").iterdir()] == ["attempt_0"]


def test_a_storage_below_a_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError) as caught:
        open_storage(str(tmp_path / "file"), tmp_path, "run").check_writable()
    line = str(caught.value)
    assert f"the storage {tmp_path}/file/run can't be written" in line
    assert "\n" not in line


@contextlib.contextmanager
def read_only_mount(path: Path) -> Iterator[None]:
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(path)], capture_output=True
    )
    if done.returncode:
        pytest.skip("mounting takes root")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_read_only_storage_is_refused(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("mounting takes root")
    with (
        read_only_mount(tmp_path / "fixed"),
        pytest.raises(StorageError, match=r"can't be written"),
    ):
        open_storage(str(tmp_path / "fixed"), tmp_path, "run").check_writable()


@pytest.mark.parametrize("uri", ["nosuch://bucket/path", "s3://", "s3://?x", "://"])
def test_a_uri_of_no_known_kind_is_refused_in_one_line(uri: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"^--storage \S*:// ?\S* ?can't be used") as caught:
        open_storage(uri, tmp_path, "run")
    assert "\n" not in str(caught.value)


def test_a_bucket_that_does_not_answer_is_refused_in_time_and_shows_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_module, "_PROBE_SECONDS", 2.0)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    uri = "s3://bucket/path?scheme=http&endpoint_override=127.0.0.1:9&region=us-east-1"
    storage = open_storage(uri, tmp_path, "run")
    assert not storage.is_local
    assert storage.root == "bucket/path/run"
    with pytest.raises(StorageError) as caught:
        storage.check_writable()
    assert "secret" not in storage.shown + str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_storage_that_never_answers_keeps_no_process_from_ending() -> None:
    code = """
import time
from distributed_fmlp.errors import StorageError
from distributed_fmlp.sweep import storage
storage._PROBE_SECONDS = 0.1
try:
    storage._within(lambda: time.sleep(600), "s3://bucket")
except StorageError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.startswith("the storage s3://bucket didn't answer within")
    assert done.stderr == ""


def test_a_key_in_the_address_is_refused_and_not_shown(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="AWS_ACCESS_KEY_ID") as caught:
        open_storage("s3://key:hidden@bucket/path", tmp_path, "run")
    assert "hidden" not in str(caught.value)
    assert "\n" not in str(caught.value)
