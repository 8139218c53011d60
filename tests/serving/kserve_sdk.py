"""Asks a service with the KServe SDK, which lives in an environment of its own; see kserve.txt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

IMAGES = np.arange(2 * 784, dtype=np.uint8).reshape(2, 784)  # what kserve_session.py sends


def kserve_answers(url: str) -> dict[str, Any]:
    """What kserve_session.py found; the test is skipped where there is no SDK."""
    python = _python()
    if python is None:
        pytest.skip(
            "no KServe SDK here: make test installs it, or FMLP_KSERVE_PYTHON names an interpreter "
            "that has it (tests/serving/kserve.txt); FMLP_WITHOUT_KSERVE=1 leaves it out"
        )
    script = Path(__file__).with_name("kserve_session.py")
    ran = subprocess.run([python, str(script), url], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def check_kserve(found: dict[str, Any], expected: Any) -> None:
    """All went well; `expected` are the probabilities of `IMAGES`. The SDK drops the version."""
    assert (found["live"], found["ready"], found["model ready"]) == (True, True, True)
    for form in ("json", "binary"):
        outputs = found[form]
        assert np.allclose(outputs["probabilities"], expected, atol=1e-5)
        assert outputs["label"] == expected.argmax(1).tolist()
    assert "inputs" in found["refused"] and "400" in found["refused"]


def _python() -> str | None:
    """The interpreter that has the SDK: what a variable names, or what make has made."""
    if os.environ.get("FMLP_WITHOUT_KSERVE") == "1":
        return None
    if given := os.environ.get("FMLP_KSERVE_PYTHON"):
        return given
    own = Path(sys.prefix) / "kserve"
    return str(own / "bin" / "python") if (own / ".installed").exists() else None
