"""Whether a cluster file gives its nodes this machine's Python, Ray and packages, and no others."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from distributed_fmlp.doctor.cluster_file import ClusterFile
from distributed_fmlp.doctor.findings import Finding, failed, note, ok
from distributed_fmlp.doctor.this_machine import CONSTRAINTS, read_constraints

_MOVING = re.compile(r"nightly|ray-wheels/latest|ray-wheels/master|\.dev0\b|:latest\b")
_NEWEST = re.compile(r"/latest(?:/|$)|/family/")
_INSTALLS_RAY = re.compile(r"\bray(?:\[[\w,-]+\])?\s*==\s*([\w.]+)")
_RAY_IMAGE = re.compile(r"(?:^|/)ray(?:-ml|-llm)?:(\d+\.\d+\.\d+)")
_IMAGE_PYTHON = re.compile(r"-py(\d)(\d+)\b")
_PYTHON = re.compile(r"\bpython(?:\s|=|==|-)?(3\.\d+(?:\.\d+)?)\b|--python[ =](3\.\d+(?:\.\d+)?)\b")
_CONSTRAINED = re.compile(r"(?:--constraints?|-c)[ =](\S+)")
# A Ray with no version, or with no exact one.
_ANY_RAY = re.compile(r"[\s\"']ray(?:\[[\w,-]+\])?(?=[\s\"';&|<>~!]|$)(?!\s*==)")
_VERSION = re.compile(r"\b([A-Za-z][\w.-]*)(?:\[[\w,-]+\])?\s*==\s*([\w.]+)")
_INSTALL = re.compile(r"\bpip3?\s+install\b")
_OWN = re.compile(r"--editable|-e\s|install\s.*\s\.(?:\s|\[|$)|distributed[-_]fmlp")


def check_versions(file: ClusterFile) -> list[Finding]:
    """Nothing that moves by itself, and the versions that are here."""
    return [*_moving(file), *_ray(file), *_python(file), *_package(file)]


def _moving(file: ClusterFile) -> list[Finding]:
    """What is another one tomorrow: nightly wheels, images with no tag of their own."""
    texts = [*file.setup, *file.images()]
    bad = [text for text in texts if _MOVING.search(text)]
    bad += [image for image in file.images() if ":" not in image.rpartition("/")[2]]
    if not bad:
        # What is newest of a kind brings its own repairs; that it is another one is to be known.
        images = [image for image in file.machine_images() if _NEWEST.search(image)]
        return [
            ok("pinned", "no nightly build, no container image without a version"),
            *(
                note(
                    "pinned",
                    f"…/{'/'.join(image.split('/')[-3:])} stands for whatever machine image is "
                    "newest that day",
                    "write down the one that it stands for today to hold it still",
                )
                for image in images
            ),
        ]
    default = not file.written.get("setup_commands") and not file.images()
    whose = "Ray's default for this provider, as setup_commands is empty" if default else "given"
    return [
        failed(
            "pinned",
            f"{_short(text)} is another build every day ({whose})",
            "give setup_commands that install a version, as cluster/ does",
        )
        for text in dict.fromkeys(bad)
    ]


def _ray(file: ClusterFile) -> list[Finding]:
    here = importlib.metadata.version("ray")
    named = {version for text in file.setup for version in _INSTALLS_RAY.findall(text)}
    named |= {version for image in file.images() for version in _RAY_IMAGE.findall(image)}
    named |= {known["ray"] for known in _constraints(file) if "ray" in known}
    loose = [text for text in file.setup if _takes_any_ray(text)]
    if loose and not any(map(_MOVING.search, loose)):
        return [
            failed(
                "Ray version",
                f"{_short(text)} takes whatever Ray is newest that day",
                f"install ray=={here}, this machine's, or add --constraint constraints.txt",
            )
            for text in loose
        ]
    if not named:
        return [
            failed(
                "Ray version",
                "no command installs a version of Ray that is named",
                f"install ray=={here}, this machine's, or use a constraints file",
            )
        ]
    return _compared("Ray version", named, here, "Ray")


def _takes_any_ray(text: str) -> bool:
    """Whether one of a line's commands installs a Ray without saying which."""
    return any(
        _ANY_RAY.search(command[found.end() :]) and not _CONSTRAINED.search(command)
        for command in re.split(r"&&|;|\|\|", text)
        if (found := _INSTALL.search(command))
    )


def _python(file: ClusterFile) -> list[Finding]:
    here = platform.python_version()
    named = {first or second for text in file.setup for first, second in _PYTHON.findall(text)}
    named |= {
        f"{major}.{minor}"
        for image in file.images()
        for major, minor in _IMAGE_PYTHON.findall(image)
    }
    if not named:
        return [
            failed(
                "Python",
                "no command and no image names a version of Python",
                f"name this machine's, {here}, as cluster/ does",
            )
        ]
    return _compared("Python", named, here, "Python")


def _compared(check: str, named: Iterable[str], here: str, what: str) -> list[Finding]:
    """A version that names less of itself, such as 3.11, agrees with 3.11.7."""
    bad = [version for version in sorted(named) if not f"{here}.".startswith(f"{version}.")]
    if bad:
        return [
            failed(
                check,
                f"nodes get {what} {version}, this machine has {here}, and Ray lets no two "
                "versions work together",
                f"name {here} in the file, or use {version} here",
            )
            for version in bad
        ]
    return [ok(check, f"{', '.join(sorted(named))} as here")]


def _package(file: ClusterFile) -> list[Finding]:
    own = [text for text in file.setup if _INSTALL.search(text) and _OWN.search(text)]
    if not own:
        if any("fmlp" in image for image in file.images()):
            return [ok("package", f"in the image {file.images()[0]}")]
        return [
            failed(
                "package",
                "no command installs this package on the nodes",
                "copy the checkout with file_mounts and pip install it, as cluster/ does",
            )
        ]
    if not all(_CONSTRAINED.search(text) for text in own):
        return [
            failed(
                "package",
                f"{_short(own[0])} takes whatever versions are newest that day",
                "add --constraint constraints.txt",
            )
        ]
    known = read_constraints(CONSTRAINTS)
    given = [pair for constraints in _constraints(file) for pair in constraints.items()]
    given += [
        (name.lower(), version)
        for text in file.setup
        if _INSTALL.search(text)
        for name, version in _VERSION.findall(text)
        if name.lower() != "ray"  # it has a check of its own
    ]
    others = [
        f"{name} {version} ({known[name]} here)"
        for name, version in dict.fromkeys(given)
        if known.get(name, version) != version
    ]
    if others:
        return [
            failed(
                "package",
                f"nodes get other versions than this checkout's: {', '.join(others[:5])}",
                "mount this checkout's constraints.txt, and install no others",
            )
        ]
    return [ok("package", "installed from the checkout with its constraints")]


def _constraints(file: ClusterFile) -> Iterator[dict[str, str]]:
    """The constraints files of this machine that the set-up commands name."""
    for text in file.setup:
        for name in _CONSTRAINED.findall(text):
            for remote, local in file.mounts.items():
                if remote.endswith(f"/{name}") or remote == name or name.endswith(remote):
                    yield read_constraints(Path(local).expanduser())


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}…"
