"""`python -m distributed_fmlp.tune`: run or resume a sweep, and serve its model when asked to."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from distributed_fmlp import options
from distributed_fmlp.errors import UserError

_END_SECONDS = 20.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sweep.

    The exit status is 0, 1 when a trial failed, 2 for bad input, 130 when stopped. With `--serve`
    a finished sweep becomes the service, in this process's place, and the status is the service's.
    """
    resumes = False
    try:
        request = options.parse(arguments)
        resumes = request.resume is not None
        if request.serve_port is not None:
            _check_service(request.serve_port)
        # Imported late: Ray and torch take seconds, and --help and bad options need neither.
        from distributed_fmlp.ray_session import configure_environment

        configure_environment(private=request.options.address is None)
        from distributed_fmlp.sweep.run import run_sweep

        status, run = run_sweep(request)
        if status == 0 and request.serve_port is not None:
            _become_service(run, request.serve_port)
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if resumes:
            print(
                "Stopped before training went on; what was kept is unchanged. To go on, give the "
                "same command again",
                file=sys.stderr,
            )
        else:
            print("Stopped before the first epoch; nothing is kept", file=sys.stderr)
        return 130


def _check_service(port: int) -> None:
    """Raise `UserError` now for what would only be found out when the sweep has ended."""
    from distributed_fmlp.serving.launch import check_port
    from distributed_fmlp.serving.settings import read_token

    check_port("127.0.0.1", port)
    read_token(None)


def _become_service(run: Path, port: int) -> None:
    """A process of its own: Ray takes its settings once, and the sweep's are not the service's."""
    sys.stdout.flush()
    sys.stderr.flush()
    words = ["-m", "distributed_fmlp.serve", str(run.absolute()), "--port", str(port)]
    os.execv(sys.executable, [sys.executable, *words])


def _end(status: int) -> NoReturn:
    """End this process, in which all is done and said.

    Python would wait for every thread that a library has left, and a sweep that was interrupted in
    the midst of Ray's work may leave one that never ends.
    """
    # Ray's own end, at exit, would show a traceback when interrupted.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    at_the_latest = threading.Timer(_END_SECONDS, os._exit, (status,))
    at_the_latest.daemon = True
    at_the_latest.start()
    _flush()
    atexit._run_exitfuncs()  # Ray's processes, if any are left, and temporary files
    _flush()
    os._exit(status)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # whoever read it may be gone
            stream.flush()


if __name__ == "__main__":
    _end(main())
