"""`python -m distributed_fmlp.serving.throughput [PORT]`: the settings of a Ray started by hand.

Printed as lines for a shell, which serve/throughput.sh evaluates before Ray starts: throughput mode
where it can be had, and this service's words for what Ray answers itself.
"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from distributed_fmlp.command_line import SERVE_PORT, OneLineParser, whole
from distributed_fmlp.errors import UserError
from distributed_fmlp.serving import haproxy

PROXY_CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
OWN_WORDS = "distributed_fmlp.serving.proxy_answers.middlewares"


def settings(port: int) -> dict[str, str]:
    """What the environment of Ray and of the deploying command has to hold, by name."""
    found: dict[str, str] = {}
    if haproxy.available():
        # Not in TMPDIR: HAProxy's sockets lie below, and their paths hold 97 characters.
        directory = tempfile.mkdtemp(prefix="fmlp-haproxy-", dir="/tmp")
        haproxy.configure_environment(Path(directory), port, found)
    # With HAProxy too: the replicas' own ports then say nothing that HAProxy's doesn't.
    if PROXY_CALLBACK not in os.environ:
        found[PROXY_CALLBACK] = OWN_WORDS
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print them; gives the exit status."""
    parser = OneLineParser(
        prog="python -m distributed_fmlp.serving.throughput",
        description="Print the settings of Ray Serve's throughput mode, as lines for a shell.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "port",
        nargs="?",
        type=whole(1, "a port from 1 to 65535", 65535),
        default=SERVE_PORT,
        help="the port of http_options (%(default)s)",
    )
    try:
        options = parser.parse_args(arguments)
        if not haproxy.available():
            print(
                "Ray Serve's throughput mode can't be had here (it needs Linux and HAProxy): Ray's "
                "own proxy will answer.",
                file=sys.stderr,
            )
        for name, value in settings(options.port).items():
            print(f"export {name}={shlex.quote(value)}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
