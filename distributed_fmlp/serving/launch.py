"""Start the service on this machine, say how to use it, and stop it in good order."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import os
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distributed_fmlp.errors import ClusterError, OptionError
from distributed_fmlp.serving import early_stop, haproxy
from distributed_fmlp.serving.loopback import is_loopback
from distributed_fmlp.serving.ray_watch import RayWatch

if TYPE_CHECKING:
    from distributed_fmlp.serving.engine import ServedModel

PICTURE = Path(__file__).with_name("example.png")
_EVERY_ADDRESS = ("0.0.0.0", "::")
_PROXY_CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
_LOGGING = {"enable_access_log": False, "log_level": "WARNING"}


def serve_until_stopped(options: argparse.Namespace) -> int:
    """Deploy what `options` of the command line ask for; return when a signal stops it.

    Raises `UserError` when it can't be deployed, `KeyboardInterrupt` when stopped before that.
    """
    started = time.monotonic()
    check_port(options.host, options.port)
    for number in early_stop.SIGNALS:
        signal.signal(number, signal.default_int_handler)
    with _temporary_directory() as directory:
        # What Ray reads at import is set before anything imports it.
        from distributed_fmlp.ray_session import configure_environment

        configure_environment(private=True)
        # Ray's processes give way to all others by default: right for training, not for answers.
        os.environ.setdefault("RAY_worker_niceness", "0")
        # For every IPv6 address Ray has HAProxy listen at every IPv4 one.
        if not options.no_haproxy and options.host != "::" and haproxy.available():
            haproxy.configure_environment(directory, options.port, os.environ)
            os.environ.setdefault(_PROXY_CALLBACK, "distributed_fmlp.serving.shortcut.middlewares")
        else:
            os.environ.setdefault(
                _PROXY_CALLBACK, "distributed_fmlp.serving.proxy_answers.middlewares"
            )
        from distributed_fmlp.serving.bundle_place import find_bundle

        bundle = find_bundle(options.bundle, Path(options.results))
        with contextlib.ExitStack() as stack:
            stop = threading.Event()
            with early_stop.ending_at_once(directory):
                deployed = _deployed(options, bundle, directory, stop)
                model, ray_logs = stack.enter_context(deployed)
                _set_by_signals(stop)
            _say_hello(options, model, time.monotonic() - started, ray_logs)
            while not stop.wait(0.5):
                pass
            print("Stopping: requests under way are answered first.", flush=True)
    print("Stopped.", flush=True)
    return 0


def check_port(host: str, port: int) -> None:
    """Raise `OptionError` unless this process could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.getaddrinfo(host, port, family)
        with socket.create_server((host, port), family=family):
            pass
    except (OSError, UnicodeError) as error:
        # What the socket module adds to the system's words only repeats the address.
        reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else "no name"
        if isinstance(error, socket.gaierror):
            reason = str(error.strerror)
        raise OptionError(
            f"can't listen on {host}:{port} ({reason}); choose another --port or --host, or stop "
            "what listens there"
        ) from error


@contextlib.contextmanager
def _temporary_directory() -> Iterator[Path]:
    """For Ray's and HAProxy's files, logs included; kept when the service could not be deployed."""
    directory = Path(tempfile.mkdtemp(prefix="fmlp-", dir=haproxy.parent_of_sockets()))
    # A Ray that is interrupted while it starts ends its processes, which still write, only when
    # this one exits: after that, as what is registered first is called last.
    remove = atexit.register(shutil.rmtree, directory, ignore_errors=True)
    try:
        yield directory
    except ClusterError:
        atexit.unregister(remove)
        raise
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _deployed(
    options: argparse.Namespace, bundle: str, directory: Path, stop: threading.Event
) -> Iterator[tuple[ServedModel, str]]:
    """The service, answering; yields what it serves and where Ray's logs are.

    `stop` is set when it is to end.
    """
    from distributed_fmlp.ray_session import diverted_output, ray_session

    log = directory / "ray.log"
    verification = _Verification(bundle)
    with contextlib.ExitStack() as stack:
        watch = stack.enter_context(RayWatch(directory, stop))
        with diverted_output(log):
            ray_logs = stack.enter_context(ray_session(None, directory))
            early_stop.take_signals()  # Ray has taken SIGTERM
            model = verification.result()
            # Serve stops before Ray does, whatever happens.
            stack.callback(watch.closing)
            stack.callback(_shut_down, log)
            _start_serve(options, ray_logs)
            _deploy(options, bundle, model.sha256, ray_logs)
        watch.begin()
        yield model, ray_logs


def _start_serve(options: argparse.Namespace, ray_logs: str) -> None:
    from ray import serve
    from ray.exceptions import RayError

    try:
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": options.host, "port": options.port},
            logging_config=_LOGGING,
        )
    except (RayError, RuntimeError, TimeoutError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ClusterError(
            f"Ray Serve can't be started ({reason}); try again when the machine is less busy, or "
            f"see Ray's logs in {ray_logs}"
        ) from error


class _Verification:
    """A bundle that is verified while Ray starts, which mostly waits for its processes."""

    def __init__(self, bundle: str) -> None:
        self._outcome: Future[ServedModel] = Future()
        threading.Thread(target=self._verify, args=(bundle,), daemon=True).start()

    def _verify(self, bundle: str) -> None:
        try:
            from distributed_fmlp.serving.model import open_model

            self._outcome.set_result(open_model(bundle).served)
        except BaseException as error:
            self._outcome.set_exception(error)

    def result(self) -> ServedModel:
        """What is served. Raises `BundleError` for a bundle that is refused."""
        return self._outcome.result()


def _shut_down(log: Path) -> None:
    from ray import serve

    from distributed_fmlp.ray_session import diverted_output
    from distributed_fmlp.serving.app import APP_NAME

    with diverted_output(log):
        # Ends the replicas first, each after its requests; a shutdown would end HAProxy under them.
        serve.delete(APP_NAME)
        shutdown: Any = serve.shutdown
        shutdown()


def _deploy(options: argparse.Namespace, bundle: str, sha256: str, ray_logs: str) -> None:
    from ray import serve

    from distributed_fmlp.serving.app import APP_NAME, application
    from distributed_fmlp.serving.coordinator import Pinned
    from distributed_fmlp.serving.settings import ServiceArguments

    arguments = ServiceArguments(
        bundle=bundle,
        results=options.results,
        replicas=options.replicas,
        cpus_per_replica=_cpus_per_replica(options.replicas),
        max_batch_size=options.max_batch_size,
        batch_wait_ms=options.batch_wait_ms,
        max_queued=options.max_queued,
        max_body_bytes=options.max_body_mib << 20,
        insecure=options.insecure,
        token_file=options.token_file and _absolute(options.token_file),
    )
    try:
        app = application(arguments, Pinned(bundle, sha256))
        serve.run(app, name=APP_NAME, route_prefix="/", logging_config=_LOGGING)
    except RuntimeError as error:
        reason = _reason(APP_NAME) or str(error)
        raise ClusterError(
            f"the service can't be deployed: {reason}; Ray's logs are in {ray_logs}"
        ) from error


def _cpus_per_replica(replicas: int) -> float:
    """A whole CPU each where there is one; the coordinator and HAProxy take theirs beside."""
    return min(1.0, (os.cpu_count() or 1) / replicas)


def _reason(app_name: str) -> str | None:
    """Why Serve couldn't deploy, in one line."""
    from ray import serve

    message = serve.status().applications[app_name].message
    lines = [line.strip() for line in message.splitlines() if "Error" in line]
    return lines[-1] if lines else None


def _say_hello(
    options: argparse.Namespace, model: ServedModel, seconds: float, ray_logs: str
) -> None:
    host = f"[{options.host}]" if ":" in options.host else options.host
    everywhere = options.host in _EVERY_ADDRESS
    closed = not is_loopback(options.host) and _token_words(options) is None
    url = f"http://{'127.0.0.1' if everywhere else host}:{options.port}"
    print(
        f"Serving at {url} after {seconds:.1f} s (docs at {url}/docs)",
        f"Model {model.version}: learning rate {model.learning_rate:g}, seed {model.seed}, epoch "
        f"{model.epoch}; accuracy {100 * model.val_accuracy:.2f} % validation, "
        f"{100 * model.test_accuracy:.2f} % test ({model.dataset})",
        *(["NOT FASHION-MNIST: digits took its place."] if model.substituted else []),
        *(["Other machines reach it at every address of this one."] if everywhere else []),
        *(
            ["It asks for no token, so /admin is closed: it can't be given another model."]
            if closed
            else []
        ),
        f"Ray's logs {ray_logs} (gone when it stops)",
        "",
        "Try it:",
        *(f"  {line}" for line in _examples(url, _token_words(options))),
        "",
        "Ctrl-C stops it.",
        sep="\n",
        flush=True,
    )


def _token_words(options: argparse.Namespace) -> str | None:
    """How a shell says the token, which itself is never printed; `None` without one."""
    from distributed_fmlp.serving.settings import TOKEN_VARIABLE, read_token

    if read_token(options.token_file) is None:
        return None
    if options.token_file is None:
        return f"${TOKEN_VARIABLE}"
    return f"$(cat {shlex.quote(_absolute(options.token_file))})"


def _absolute(file: str) -> str:
    return os.path.abspath(os.path.expanduser(file))


def _examples(url: str, token: str | None) -> list[str]:
    """Three requests for a shell: each has its comment above it."""
    curl = "curl -s" if token is None else f'curl -s -H "Authorization: Bearer {token}"'
    header = ""
    before = ""
    if token is not None:
        before = f'FMLP_API_TOKEN="{token}" '
        header = ", 'Authorization': 'Bearer ' + __import__('os').environ['FMLP_API_TOKEN']"
    code = (
        "import json, urllib.request as u; "
        f"r = u.Request('{url}/predict', json.dumps({{'instances': [[0] * 784]}}).encode(), "
        f"{{'Content-Type': 'application/json'{header}}}); print(json.load(u.urlopen(r)))"
    )
    return [
        "# raw pixels: 784 bytes an image",
        "head -c 784 /dev/urandom | "
        f"{curl} --data-binary @- -H 'Content-Type: application/octet-stream' {url}/predict",
        "# a picture",
        f"{curl} --data-binary @{shlex.quote(str(PICTURE))} -H 'Content-Type: image/png' "
        f"{url}/predict",
        "# Python",
        f'{before}{shlex.quote(sys.executable)} -c "{code}"',
    ]


def _set_by_signals(stop: threading.Event) -> None:
    """The first of them sets `stop`; those that follow change nothing."""
    for number in early_stop.SIGNALS:
        signal.signal(number, lambda *_: stop.set())
