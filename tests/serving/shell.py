"""What a shell gets from serve/throughput.sh, as the READMEs have it sourced."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.serving.running_service import ROOT

SCRIPT = ROOT / "serve" / "throughput.sh"


def with_programs(env: Mapping[str, str]) -> dict[str, str]:
    """An environment in which `python`, `ray` and `serve` are those of these tests."""
    return {**env, "PATH": os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])}


def source_settings(
    words: str, env: Mapping[str, str]
) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
    """`. serve/throughput.sh WORDS` in a shell with `env`: its status, and the environment then."""
    line = f". {SCRIPT} {words}; status=$?; env -0; exit $status"
    done = subprocess.run(
        ["bash", "-c", line], env=with_programs(env), capture_output=True, text=True, timeout=60
    )
    found = dict(entry.split("=", 1) for entry in done.stdout.split("\0") if "=" in entry)
    return done, found
