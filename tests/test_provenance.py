"""Where a result came from: the commit it was made with, versions, the machine."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import distributed_fmlp
from distributed_fmlp import provenance

SHOW = (
    "import json; from distributed_fmlp import provenance; print(json.dumps(provenance.source()))"
)


def git(directory: Path, *words: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@localhost"]
    done = subprocess.run(
        ["git", "-C", str(directory), *identity, *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull},
    )
    return done.stdout.strip()


def copy_of_the_package(directory: Path) -> Path:
    """The two modules that matter, where they can be committed and changed."""
    package = directory / "distributed_fmlp"
    package.mkdir(parents=True)
    source = Path(distributed_fmlp.__file__).parent
    for name in ("__init__.py", "provenance.py"):
        (package / name).write_bytes((source / name).read_bytes())
    return package


def source_of(directory: Path, path: str = os.environ.get("PATH", "")) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", SHOW],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(directory), "PATH": path},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return dict(json.loads(done.stdout))


def test_the_source_is_the_commit_and_whether_it_was_changed_since(tmp_path: Path) -> None:
    package = copy_of_the_package(tmp_path)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "distributed_fmlp")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert source_of(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "results.txt").write_text("what a run leaves is no change of the source")
    assert source_of(tmp_path) == {"commit": commit, "dirty": False}
    (package / "__init__.py").write_text((package / "__init__.py").read_text() + "\n# changed\n")
    assert source_of(tmp_path) == {"commit": commit, "dirty": True}


def test_outside_a_checkout_there_is_no_commit(tmp_path: Path) -> None:
    copy_of_the_package(tmp_path)
    assert source_of(tmp_path) == {"commit": None, "dirty": None}


def test_another_projects_checkout_around_the_package_is_not_taken_for_its_own(
    tmp_path: Path,
) -> None:
    copy_of_the_package(tmp_path)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "-m", "someone else's")
    assert source_of(tmp_path) == {"commit": None, "dirty": None}


def test_without_git_there_is_no_commit(tmp_path: Path) -> None:
    copy_of_the_package(tmp_path)
    assert source_of(tmp_path, path=str(tmp_path)) == {"commit": None, "dirty": None}


def test_versions_are_those_installed() -> None:
    found = provenance.versions()
    assert found["python"] == platform.python_version()
    assert found["distributed_fmlp"] == distributed_fmlp.__version__
    for library in ("ray", "torch", "numpy", "scikit-learn", "safetensors"):
        assert found[library] == importlib.metadata.version(library)


def test_the_machine_is_described_in_plain_values() -> None:
    found = json.loads(json.dumps(provenance.machine()))
    assert found["cpus"] == os.cpu_count()
    assert found["memory_bytes"] > 1 << 28
    assert platform.system() in found["system"]
    assert found["processor"]


def test_times_are_utc_in_iso_8601_with_whole_seconds() -> None:
    text = provenance.now()
    told = datetime.fromisoformat(text)
    assert told.utcoffset() == timedelta(0)
    assert told.microsecond == 0
    assert abs(datetime.now(UTC) - told) < timedelta(seconds=5)
    assert text.endswith("+00:00")
