"""`python -m distributed_fmlp.serve`: serve a bundle, or look after a running service."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from distributed_fmlp.command_line import OneLineParser
from distributed_fmlp.errors import OptionError, UserError
from distributed_fmlp.serving.limits import LARGEST_BATCH, LARGEST_BODY, MOST_QUEUED

_DESCRIPTIONS = {
    "status": "Say which model a running service serves, and which one a rollback brings back.",
    "promote": "Have a running service serve another model, with no request lost.",
    "rollback": "Have a running service serve the model before again.",
}
COMMANDS = tuple(_DESCRIPTIONS)
_MOST_DIGITS = 12  # Python itself refuses to read thousands
DEFAULT_ADDRESS = "http://127.0.0.1:8000"


def build_parser() -> argparse.ArgumentParser:
    """The options of the service itself."""
    parser = OneLineParser(
        prog="python -m distributed_fmlp.serve",
        description="Serve a model over HTTP with Ray Serve.",
        epilog="For a running service: serve status, serve promote BUNDLE, serve rollback "
        "(each with --help).",
        allow_abbrev=False,
    )
    parser.add_argument(
        "bundle",
        metavar="RUN or BUNDLE",
        nargs="?",
        help="a bundle, a run, or a run's name (default: the newest finished run's)",
    )
    parser.add_argument(
        "--host", type=_host, default="127.0.0.1", help="address to listen on (%(default)s)"
    )
    parser.add_argument("--port", type=_port, default=8000, help="port to listen on (%(default)s)")
    parser.add_argument("--results", default="results", help="where runs are (%(default)s)")
    parser.add_argument(
        "--replicas", type=_whole(1000), default=1, help="processes that compute (%(default)s)"
    )
    parser.add_argument(
        "--max-batch-size",
        type=_whole(LARGEST_BATCH),
        default=128,
        help="images at once (%(default)s)",
    )
    parser.add_argument(
        "--batch-wait-ms",
        type=_milliseconds,
        default=2.0,
        help="longest wait for a batch to fill; none when idle (%(default)s)",
    )
    parser.add_argument(
        "--max-queued",
        type=_whole(MOST_QUEUED),
        default=512,
        help="requests held at once (%(default)s)",
    )
    parser.add_argument(
        "--max-body-mib",
        type=_whole(LARGEST_BODY >> 20),
        default=16,
        help="largest body in MiB (%(default)s)",
    )
    parser.add_argument(
        "--token-file",
        help="file with the token that requests must show (default: $FMLP_API_TOKEN)",
    )
    parser.add_argument(
        "--insecure", action="store_true", help="listen beyond loopback without a token"
    )
    parser.add_argument(
        "--no-haproxy",
        action="store_true",
        help="Ray Serve's own proxy instead of its throughput mode with HAProxy",
    )
    return parser


def build_client_parser(command: str) -> argparse.ArgumentParser:
    """The options of `status`, `promote` and `rollback`."""
    parser = OneLineParser(
        prog=f"python -m distributed_fmlp.serve {command}",
        description=_DESCRIPTIONS[command],
        allow_abbrev=False,
    )
    if command == "promote":
        parser.add_argument("bundle", metavar="BUNDLE", help="a bundle, a run, or a run's name")
        parser.add_argument("--results", default="results", help="where runs are (%(default)s)")
        parser.add_argument(
            "--allowed-accuracy-drop",
            type=_points,
            default=0.0,
            metavar="POINTS",
            help="how many points of test accuracy it may lose (%(default)s)",
        )
        parser.add_argument("--data-dir", help="where the test data is, as the service sees it")
    parser.add_argument(
        "--url", type=_url, default=DEFAULT_ADDRESS, help="the service (%(default)s)"
    )
    parser.add_argument("--token-file", help="file with its token (default: $FMLP_API_TOKEN)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until stopped, or do one thing to a running service; gives the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words and words[0] in COMMANDS:
            asked = build_client_parser(words[0]).parse_args(words[1:])
            from distributed_fmlp.serving.client import run_command

            return run_command(words[0], asked)
        options = build_parser().parse_args(words)
        from distributed_fmlp.serving.loopback import is_loopback
        from distributed_fmlp.serving.settings import read_token

        # Read in any case: a token that can't be used is no reason to serve without one.
        has_token = read_token(options.token_file) is not None
        if not (is_loopback(options.host) or has_token or options.insecure):
            raise OptionError(
                f"--host {options.host} lets other machines in, and there is no token: set "
                "FMLP_API_TOKEN or --token-file, or say --insecure"
            )
        from distributed_fmlp.serving.launch import serve_until_stopped

        return serve_until_stopped(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped before it served.", file=sys.stderr)
        return 130


def _host(text: str) -> str:
    """An address or a name; an IPv6 address may be in brackets, as in a URL."""
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not host or not host.isprintable() or any(char in " []/@" for char in host):
        raise argparse.ArgumentTypeError(f"{text!r} is neither an address nor a name")
    return host


def _port(text: str) -> int:
    if not _is_whole(text) or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; give 1 to 65535")
    return int(text)


def _url(text: str) -> str:
    """`http://HOST:PORT`, with or without a path, without a slash at its end."""
    try:
        parts = urlsplit(text)
        usable = bool(parts.scheme in ("http", "https") and parts.hostname and parts.port != 0)
    except ValueError:
        usable = False
    if not usable or not text.isascii() or not text.isprintable() or " " in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no address; give http://HOST:PORT")
    return text.rstrip("/")


def _milliseconds(text: str) -> float:
    return _between(text, 0, 1000)


def _points(text: str) -> float:
    return _between(text, 0, 100)


def _between(text: str, least: float, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(
            f"{text!r} can't be used; give a number from {least:g} to {most:g}"
        )
    return value


def _whole(most: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not _is_whole(text) or not 1 <= int(text) <= most:
            raise argparse.ArgumentTypeError(
                f"{text!r} can't be used; give a whole number from 1 to {most}"
            )
        return int(text)

    return convert


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS


if __name__ == "__main__":
    sys.exit(main())
