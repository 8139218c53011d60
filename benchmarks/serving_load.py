"""The load: wrk against one server, and what it measured."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("serving_wrk.lua")
_TIMEOUT_SECONDS = 20  # wrk counts a slower answer as an error
_SOCKET_ERRORS = ("connect", "read", "write", "timeout")


@dataclass(frozen=True)
class Load:
    """One measurement; times in ms."""

    connections: int
    images_per_request: int
    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    socket_errors: int
    status_errors: int  # answers of 400 and above

    @property
    def requests_per_second(self) -> float:
        """Good answers a second."""
        return max(0, self.requests - self.status_errors) / self.seconds

    @property
    def images_per_second(self) -> float:
        """Images in good answers a second."""
        return self.requests_per_second * self.images_per_request

    @property
    def errors(self) -> int:
        """Requests that failed, whatever way."""
        return self.socket_errors + self.status_errors

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "requests_per_second": self.requests_per_second,
            "images_per_second": self.images_per_second,
        }


def parse_wrk(output: str, connections: int, images_per_request: int) -> Load:
    """What the script printed at wrk's end. Raises `ValueError` where it printed nothing."""
    for line in output.splitlines():
        if line.startswith("RESULT "):
            told = json.loads(line.removeprefix("RESULT "))
            return Load(
                connections=connections,
                images_per_request=images_per_request,
                requests=told["requests"],
                seconds=told["seconds"],
                p50_ms=told["p50_ms"],
                p99_ms=told["p99_ms"],
                max_ms=told["max_ms"],
                socket_errors=sum(told[kind] for kind in _SOCKET_ERRORS),
                status_errors=told["status"],
            )
    raise ValueError(f"wrk measured nothing: {output[-500:]!r}")


def write_bodies(bodies: Sequence[bytes], directory: Path) -> None:
    """One file for each body, as the script reads them."""
    directory.mkdir(parents=True, exist_ok=True)
    for index, body in enumerate(bodies):
        (directory / str(index)).write_bytes(body)


def wrk_command(
    url: str, connections: int, seconds: float, bodies: Path, headers: Mapping[str, str]
) -> list[str]:
    """Wrk on one thread, which is enough: it isn't what limits."""
    wrk = shutil.which("wrk")
    if wrk is None:
        raise FileNotFoundError("wrk isn't installed; it is a package of Linux distributions")
    return [
        wrk,
        "-t1",
        f"-c{connections}",
        f"-d{max(1, round(seconds))}s",
        f"--timeout={_TIMEOUT_SECONDS}s",
        "-s",
        str(SCRIPT),
        url,
        "--",
        str(bodies),
        str(len(list(bodies.iterdir()))),
        *(f"{name}: {value}" for name, value in headers.items()),
    ]


def run_wrk(
    url: str,
    connections: int,
    seconds: float,
    bodies: Path,
    headers: Mapping[str, str],
    images_per_request: int = 1,
) -> Load:
    """Load a server for some seconds with the bodies of a directory in turn."""
    command = wrk_command(url, connections, seconds, bodies, headers)
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60)
    return parse_wrk(done.stdout + done.stderr, connections, images_per_request)
