"""Ray, started or joined for the length of a sweep or a service, and kept quiet."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import signal
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TextIO

from distributed_fmlp.errors import ClusterError
from distributed_fmlp.standard_output import lasting

_CONNECT_SECONDS = 10.0
_HOST_AND_PORT = re.compile(r"(?P<host>[^\s/,@]+):(?P<port>[0-9]{1,5})")
_OBJECT_STORE_BYTES = 512 << 20  # the data set takes 55 MB; checkpoints don't go through it
_LONGEST_TEMP = 40  # Ray adds some 60 characters, and a socket's path holds 107
# Processes of a private Ray: the autoscaler; what reads the workers' logs for the driver, which
# wants none; and the dashboard's, which ray.init waits for though include_dashboard=False leaves
# it with nothing to do.
_UNUSED = ("start_monitor", "start_log_monitor", "start_api_server")
_NO_IDLE_WORKERS = {"prestart_worker_first_driver": False}
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # The progress table is this project's own, and reports come every few seconds by design.
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is handled here
}


def configure_environment(*, private: bool) -> None:
    """Settings that Ray reads when it is imported; call this before anything imports it.

    A private Ray asks for a token that only this process and its children know, nothing of it is
    written to HOME, and its servers listen on loopback alone. What the environment sets already is
    left as it is.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if not private:
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")  # each takes 40 s, and there are 20
        return
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # On every system what it is on Windows and macOS: no cluster, so the node is 127.0.0.1. The
    # address given to ray.init would be replaced by one that other machines reach.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


@contextlib.contextmanager
def ray_session(
    address: str | None,
    directory: Path | None = None,
    *,
    worker_environment: Mapping[str, str] | None = None,
    idle_workers: bool = True,
) -> Iterator[str]:
    """Start a private Ray on this machine, or join the one at `address`; yields where its logs are.

    A private one listens on loopback alone; its files go to `directory` where that is given, and a
    worker for each CPU waits for work from the start unless `idle_workers` is false. On a cluster,
    workers get `worker_environment`, which Ray shows and logs: no place for a secret. Raises
    `ClusterError` when Ray can't be started or reached, `KeyboardInterrupt` also for SIGTERM
    meanwhile.
    """
    _check_reachable(address)
    import ray
    import ray._private.services

    nodes_here: Any = ray._private.services.find_node_ids
    if address not in (None, "auto") and not nodes_here():
        raise _no_node(str(address))  # Ray itself would look for a minute
    if ray.is_initialized():
        raise ClusterError("Ray already runs in this process: end it with ray.shutdown() first")
    try:
        if address is None:
            with _without_unused_processes():
                ray.init(
                    address="local",
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    _system_config=None if idle_workers else _NO_IDLE_WORKERS,
                    _temp_dir=_temporary_directory() if directory is None else str(directory),
                )
        else:
            environment = {"env_vars": dict(worker_environment)} if worker_environment else None
            with _refusals_told(address):
                ray.init(
                    address=address,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    runtime_env=environment,
                )
    except SystemExit:
        raise KeyboardInterrupt from None  # what Ray makes of SIGTERM while it starts
    except ClusterError:
        raise
    except Exception as error:
        # Ray raises whatever its parts raise: OSError, RuntimeError, ValueError, its own.
        if address is not None and "No node info found" in str(error.__cause__):
            raise _no_node(address) from error
        what = "started" if address is None else f"reached at {address}"
        raise ClusterError(
            f"Ray can't be {what} ({_first_line(error)}); "
            + ("check disk space and /tmp" if address is None else "check ray status there")
        ) from error
    node: Any = ray._private.worker._global_node
    try:
        yield str(Path(node.get_logs_dir_path()))
    finally:
        with uninterrupted():  # or Ray's processes would be left, and a traceback shown
            ray.shutdown()


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM off: what is done inside is short and must be whole."""
    # No other thread than the main one is interrupted, or may say what happens then.
    main = threading.current_thread() is threading.main_thread()
    kinds = (signal.SIGINT, signal.SIGTERM) if main else ()
    before = {kind: signal.signal(kind, signal.SIG_IGN) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _no_node(address: str) -> ClusterError:
    return ClusterError(
        f"this machine is no node of the cluster at {address}, and Ray lets no other in: run this "
        "on the head (ray exec, ray job submit), or join first, from where all nodes reach this "
        f"machine: ray start --address={address} --num-cpus=0 --num-gpus=0"
    )


@contextlib.contextmanager
def _refusals_told(address: str) -> Iterator[None]:
    """Say so where the cluster wants another token.

    Ray's exception only tells that it failed to connect; why, its client in C++ writes to standard
    error, in lines of its own, which are dropped when the one line of the error replaces them.
    """
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        except Exception as error:
            if b"nauthenticated" in _content(file):
                raise ClusterError(
                    f"the cluster at {address} refuses this machine's token: put the cluster's own "
                    "into ~/.ray/auth_token here and set RAY_AUTH_MODE=token"
                ) from error
            raise
        else:
            os.write(kept, _content(file))
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


@contextlib.contextmanager
def _without_unused_processes() -> Iterator[None]:
    """Keep a private Ray from starting what it has no use for; there is no option for that.

    A Ray that starts these by other names starts them: it only takes longer.
    """
    from ray._private.node import Node

    def skip(node: Any, **_: object) -> None:
        node._webui_url = ""  # what Ray itself takes for no dashboard

    kept = {name: getattr(Node, name) for name in _UNUSED if hasattr(Node, name)}
    try:
        for name in kept:
            setattr(Node, name, skip)
        yield
    finally:
        for name, method in kept.items():
            setattr(Node, name, method)


@contextlib.contextmanager
def diverted_output(log: Path) -> Iterator[TextIO]:
    """Send all that libraries write to standard output and error, in C too, to a file.

    Yields the real standard output, for this program's own words; it may be closed meanwhile.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept_out, kept_err = os.dup(1), os.dup(2)
    with (
        log.open("ab") as file,
        lasting(os.dup(kept_out), sys.stdout.encoding) as out,
        warnings.catch_warnings(),
    ):
        try:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            yield out
        finally:
            for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
                _flush_or_drop(stream, descriptor)
            os.dup2(kept_out, 1)
            os.dup2(kept_err, 2)
            os.close(kept_out)
            os.close(kept_err)


def _flush_or_drop(stream: TextIO, descriptor: int) -> None:
    """Where the log's disk is full, what is left to log goes nowhere, not to the user later."""
    try:
        stream.flush()
    except OSError:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), descriptor)
        stream.flush()


def _temporary_directory() -> str | None:
    """A short path for Ray's sockets where TMPDIR's is too long; `None` for Ray's own choice."""
    if "RAY_TMPDIR" in os.environ or len(tempfile.gettempdir()) <= _LONGEST_TEMP:
        return None
    return "/tmp/ray"


def _check_reachable(address: str | None) -> None:
    """Ray itself tries for a minute and more, and then says little."""
    if address is None:
        return
    name = "--address"
    if address == "auto":
        address = _running_here()
        name = "RAY_ADDRESS" if address == os.environ.get("RAY_ADDRESS") else name
    if address.startswith("ray://"):
        raise ClusterError(
            f"{name} {address} is a Ray Client's, which can't carry a sweep: run on a node of "
            "the cluster with --address auto, or through ray job submit"
        )
    found = _HOST_AND_PORT.fullmatch(address)
    if found is None or not 0 < int(found["port"]) < 1 << 16:
        raise ClusterError(f"{name} {address!r} is not an address: give auto or HOST:PORT")
    host, port = found["host"].strip("[]"), int(found["port"])
    try:
        socket.create_connection((host, port), _CONNECT_SECONDS).close()
    except OSError as error:
        raise ClusterError(
            f"no Ray answers at {address} ({error}); check the address and that the head runs"
        ) from error


def _running_here() -> str:
    """Where Ray would look for auto: RAY_ADDRESS, this machine's processes, what it wrote down.

    The last may name a cluster that is gone. Raises `ClusterError` where there is none.
    """
    import ray._private.services

    find: Any = ray._private.services.get_ray_address_from_environment
    try:
        return str(find("auto", None))
    except ConnectionError as error:
        raise ClusterError(
            "Ray can't be reached at auto (none runs on this machine, and RAY_ADDRESS names none); "
            "run this on a node of the cluster, or give HOST:PORT"
        ) from error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
