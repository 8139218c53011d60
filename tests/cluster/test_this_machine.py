"""The doctor on this machine: what it tells, and that nothing is left of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from distributed_fmlp.doctor.data_present import check_data
from distributed_fmlp.doctor.this_machine import read_constraints


@pytest.mark.slow
def test_what_is_wrong_here_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-m", "distributed_fmlp.doctor", "--storage", "file/sweeps"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 1, done.stdout
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    (failure,) = (line for line in lines if line.startswith("FAILED"))
    assert failure.split()[1] == "storage"
    checks = {line.split()[1] for line in lines[:-1]}
    assert {
        "Python",
        "packages",
        "CPUs",
        "GPUs",
        "disk",
        "memory",
        "Ray",
        "data",
        "ports",
    } <= checks
    assert any(line.startswith("ok      Ray") for line in lines)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_data_variable_that_is_wrong_is_a_failure_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FMLP_DATA_DIR", str(tmp_path / "a: b"))
    (finding,) = check_data(None)
    assert finding.verdict == "FAILED"
    assert finding.told.startswith(f"FMLP_DATA_DIR is {tmp_path / 'a: b'}, which doesn't exist")
    assert finding.advice.startswith("let it name the directory")


def test_a_missing_constraints_file_says_nothing(tmp_path: Path) -> None:
    assert read_constraints(tmp_path / "none.txt") == {}


def test_constraints_are_read_by_name(tmp_path: Path) -> None:
    path = tmp_path / "constraints.txt"
    path.write_text("# words\nJinja2==3.1.6\nray==2.60.0\n")
    assert read_constraints(path) == {"jinja2": "3.1.6", "ray": "2.60.0"}
