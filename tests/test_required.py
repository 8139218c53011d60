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
    "browser": "tests/serving/test_docs_page.py"
    "::test_the_documentation_asks_for_the_token_where_there_is_one",
    "kserve": "tests/serving/test_clients.py::test_the_kserve_sdk_works",
    "wrk": "tests/test_benchmark_serving.py::test_wrk_sends_the_bodies_in_turn_with_their_headers",
}


def run_tests(require: str, *which: str) -> subprocess.CompletedProcess[str]:
    """Where there is no FashionMNIST, no browser, no KServe SDK and no wrk to be found."""
    without = {key: value for key, value in os.environ.items() if key != "FMLP_DATA_DIR"}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", *which],
        cwd=ROOT,
        env={**without, "FMLP_REQUIRE": require, "FMLP_WITHOUT_KSERVE": "1", "PATH": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("kind", OF_KIND)
def test_what_is_required_fails_where_it_would_be_skipped_and_nothing_else_does(kind: str) -> None:
    done = run_tests(f" {kind},", *OF_KIND.values())
    assert done.returncode == 1, done.stdout
    assert f"FMLP_REQUIRE asks for {kind}, and this test can't run" in done.stdout
    summary = done.stdout.partition("short test summary info")[2].splitlines()
    (failed,) = (line for line in summary if line.startswith(("FAILED", "ERROR")))
    assert OF_KIND[kind] in failed


def test_what_is_not_required_is_skipped_and_says_why() -> None:
    done = run_tests("", *OF_KIND.values())
    assert done.returncode == 0 and f"{len(OF_KIND)} skipped" in done.stdout, done.stdout
    for missing in ("FMLP_DATA_DIR is unset", "chromium", "KServe SDK", "wrk isn't installed"):
        assert missing in done.stdout, done.stdout


def test_a_kind_that_is_none_is_refused() -> None:
    done = run_tests("date", OF_KIND["data"])
    assert done.returncode == 4
    assert "there is no date; it may name data, browser" in done.stdout + done.stderr
