"""Where a result came from: source commit, library versions, machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import distributed_fmlp

LIBRARIES = ("ray", "torch", "torchvision", "numpy", "scikit-learn", "safetensors")


def now() -> str:
    """The time in UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def python() -> str:
    """How this interpreter is called in a command to paste: `python` where that means it."""
    found = shutil.which("python")
    same = found is not None and os.path.samefile(found, sys.executable)
    # A venv's python is a link to the one it was made from, and yet another interpreter.
    same = same and Path(str(found)).parent == Path(sys.executable).parent
    return "python" if same else sys.executable


def source() -> dict[str, Any]:
    """The commit of this package's checkout and whether it has changes; nulls outside of one."""
    package = Path(distributed_fmlp.__file__).resolve().parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(package), *words],
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    # An installed package may lie inside some other project's checkout.
    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return {"commit": None, "dirty": None}
    status = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def versions() -> dict[str, str]:
    """Versions of Python, this package and the libraries that decide the figures."""
    found = {"python": platform.python_version(), "distributed_fmlp": distributed_fmlp.__version__}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Operating system, processor, CPUs and memory (bytes) of this machine."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "memory_bytes": _memory_bytes(),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
