"""Which bundle is served: by path, by a run's name, or the newest."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distributed_fmlp.errors import BundleError
from distributed_fmlp.serving.bundle_place import find_bundle
from tests.serving.conftest import Bundles
from tests.serving.running_service import ROOT
from tests.synthetic_run import make_run


def test_finding_a_bundle_imports_no_torch() -> None:
    code = "import sys, distributed_fmlp.serving.bundle_place; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def run_with_bundle(results: Path, name: str, bundle: Path, **changes: Any) -> Path:
    path = make_run(results / name, rates=(0.001,), epochs=2, images=20, **changes)
    shutil.copytree(bundle, path / "bundle")
    return path


def test_a_bundle_a_run_or_a_runs_name_is_found(bundles: Bundles, tmp_path: Path) -> None:
    run = run_with_bundle(tmp_path, "one", bundles.first)
    expected = str(run / "bundle")
    assert find_bundle("one", tmp_path) == expected
    assert find_bundle(str(run), Path("elsewhere")) == expected
    assert find_bundle(expected, Path("elsewhere")) == expected
    assert find_bundle("s3://bucket/a?b", tmp_path) == "s3://bucket/a?b"


def test_with_none_given_it_is_the_newest_finished_run_and_else_the_reference(
    bundles: Bundles, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match="nothing to serve"):
        find_bundle(None, tmp_path)
    reference = tmp_path / "reference"
    shutil.copytree(bundles.first, reference / "bundle")
    assert find_bundle(None, tmp_path) == str(reference / "bundle")
    run_with_bundle(tmp_path, "old", bundles.first, created="2026-11-19T10:00:00+00:00")
    run_with_bundle(tmp_path, "new", bundles.first, created="2026-11-21T10:00:00+00:00")
    run_with_bundle(
        tmp_path, "under way", bundles.first, status="running",
        created="2026-11-22T10:00:00+00:00", finished=None,
    )  # fmt: skip
    assert find_bundle(None, tmp_path) == str(tmp_path / "new" / "bundle")


def test_in_a_fresh_checkout_it_is_the_run_that_the_readmes_name(tmp_path: Path) -> None:
    # Not the directory itself: a developer's own runs are in it too.
    text = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## `(\w+)`\n(.*?)(?=^## |\Z)", text, flags=re.M | re.S))
    assert len(sections) == 2
    for name in sections:
        (tmp_path / name).symlink_to(ROOT / "results" / name)
    found = Path(find_bundle(None, tmp_path)).parent.name
    (said,) = [name for name, said in sections.items() if "newest finished run" in said]
    assert found == said
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"in a fresh checkout that of `results/{found}`" in readme


def test_a_run_without_a_bundle_and_what_is_nothing_at_all_are_refused(tmp_path: Path) -> None:
    make_run(tmp_path / "unfinished", rates=(0.001,), epochs=2, images=20)
    with pytest.raises(BundleError, match="has no bundle yet"):
        find_bundle("unfinished", tmp_path)
    for given in ("missing", str(tmp_path), "", "a\0b"):
        with pytest.raises(BundleError, match="neither a bundle nor a run"):
            find_bundle(given, tmp_path)
    with pytest.raises(BundleError, match="can't be read"):
        find_bundle("n" * 300, tmp_path)
