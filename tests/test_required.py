"""FMLP_REQUIRE: what is asked for must be there; its tests fail where they would be skipped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OF_KIND = {
    "data": "tests/report/test_page.py::test_real_test_images_are_found",
    "browser": "tests/serving/test_docs_page.py",
}


def run_tests(which: str, require: str) -> subprocess.CompletedProcess[str]:
    """Where there is neither FashionMNIST nor a browser to be found."""
    without = {key: value for key, value in os.environ.items() if key != "FMLP_DATA_DIR"}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", which],
        cwd=ROOT,
        env={**without, "FMLP_REQUIRE": require, "PATH": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("kind", OF_KIND)
def test_what_is_required_fails_where_it_would_be_skipped_and_nothing_else_does(kind: str) -> None:
    (other,) = OF_KIND.keys() - {kind}
    done = run_tests(OF_KIND[kind], f"{other}, {kind}")
    assert done.returncode == 1, done.stdout
    assert f"FMLP_REQUIRE asks for {kind}, and this test can't run" in done.stdout
    for require in ("", other):
        done = run_tests(OF_KIND[kind], require)
        assert done.returncode == 0 and "skipped" in done.stdout, done.stdout


def test_a_kind_that_is_none_is_refused() -> None:
    done = run_tests(OF_KIND["data"], "date")
    assert done.returncode == 4
    assert "there is no date; it may name data, browser" in done.stdout + done.stderr
