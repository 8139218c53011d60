"""Start the service on this machine, say how to use it, and stop it in good order."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from distributed_fmlp.errors import ClusterError, OptionError
from distributed_fmlp.serving import haproxy

_EXAMPLE = Path(__file__).parent / "page" / "silhouettes"


def serve_until_stopped(options: argparse.Namespace) -> int:
    """Deploy what `options` of the command line ask for; return when Ctrl-C or SIGTERM comes.

    Raises `UserError` when it can't be deployed.
    """
    started = time.monotonic()
    _check_port(options.host, options.port)
    with tempfile.TemporaryDirectory(prefix="fmlp-", dir=_short_directory()) as directory:
        # What Ray reads at import is set before anything imports it.
        from distributed_fmlp.sweep.ray_session import configure_environment

        configure_environment(private=True)
        if not options.no_haproxy and haproxy.available():
            haproxy.configure_environment(Path(directory), os.environ)
        from distributed_fmlp.serving.model import find_bundle, open_model

        bundle = find_bundle(options.bundle, Path(options.results))
        model = open_model(bundle).served
        log = Path(directory) / "ray.log"
        with _deployed(options, bundle, log) as ray_logs:
            _say_hello(options, model, time.monotonic() - started, ray_logs)
            _wait_for_signal()
            print("Stopping: requests under way are answered first.", flush=True)
    print("Stopped.", flush=True)
    return 0


@contextlib.contextmanager
def _deployed(options: argparse.Namespace, bundle: str, log: Path) -> Iterator[str]:
    from distributed_fmlp.sweep.ray_session import diverted_output, ray_session

    with contextlib.ExitStack() as stack:
        with diverted_output(log):
            ray_logs = stack.enter_context(ray_session(None))
            import ray
            from ray import serve

            from distributed_fmlp.serving.app import APP_NAME, build_app
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
                token_file=options.token_file and str(Path(options.token_file).absolute()),
            )
            serve.start(
                proxy_location="HeadOnly",
                http_options={"host": options.host, "port": options.port},
                logging_config={"enable_access_log": False, "log_level": "WARNING"},
            )
            try:
                serve.run(
                    build_app(arguments),
                    name=APP_NAME,
                    route_prefix="/",
                    logging_config={"enable_access_log": False, "log_level": "WARNING"},
                )
            except RuntimeError as error:
                reason = _reason(APP_NAME) or str(error)
                serve.shutdown()
                raise ClusterError(
                    f"the service can't be deployed: {reason}; Ray's logs are in {ray_logs}"
                ) from error
        try:
            yield ray_logs
        finally:
            with diverted_output(log):
                serve.shutdown()
                del ray
    # Leaving the stack ends the private Ray.


def _cpus_per_replica(replicas: int) -> float:
    """A whole CPU each where there is one; the coordinator and HAProxy take theirs beside."""
    return min(1.0, (os.cpu_count() or 1) / replicas)


def _reason(app_name: str) -> str | None:
    """Why Serve couldn't deploy, in one line."""
    from ray import serve

    message = serve.status().applications[app_name].message
    lines = [line.strip() for line in message.splitlines() if "Error" in line]
    return lines[-1] if lines else None


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family):
            pass
    except OSError as error:
        raise OptionError(
            f"can't listen on {host}:{port} ({error.strerror}); choose another --port or --host, or "
            "stop what listens there"
        ) from error


def _short_directory() -> str | None:
    """Unix sockets have short paths: not below a long TMPDIR."""
    return "/tmp" if len(tempfile.gettempdir()) > 40 else None


def _say_hello(options: argparse.Namespace, model: object, seconds: float, ray_logs: str) -> None:
    from distributed_fmlp.serving.engine import ServedModel

    assert isinstance(model, ServedModel)
    host = f"[{options.host}]" if ":" in options.host else options.host
    url = f"http://{host}:{options.port}"
    print(
        f"Serving at {url} after {seconds:.1f} s (docs at {url}/docs)",
        f"Model {model.version}: learning rate {model.learning_rate:g}, seed {model.seed}, epoch "
        f"{model.epoch}; accuracy {100 * model.val_accuracy:.2f} % validation, "
        f"{100 * model.test_accuracy:.2f} % test ({model.dataset})",
        *(["NOT FASHION-MNIST: digits took its place."] if model.substituted else []),
        f"Ray's logs {ray_logs}",
        "",
        "Try it:",
        "  # raw pixels: 784 bytes",
        f"  head -c 784 /dev/urandom | curl -s --data-binary @- -H 'Content-Type: "
        f"application/octet-stream' {url}/predict",
        "  # a picture",
        f"  curl -s --data-binary @picture.png -H 'Content-Type: image/png' {url}/predict",
        "  # Python",
        f"  python -c \"import json, urllib.request as u; print(json.load(u.urlopen(u.Request("
        f"'{url}/predict', json.dumps({{'instances': [[0] * 784]}}).encode(), "
        f"{{'Content-Type': 'application/json'}}))))\"",
        "",
        "Ctrl-C stops it.",
        sep="\n",
        flush=True,
    )


def _wait_for_signal() -> None:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    while not stop.wait(0.5):
        pass
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout.flush()
