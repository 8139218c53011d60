"""`python -m distributed_fmlp.doctor`: check this machine, a cluster file, or a running cluster."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from distributed_fmlp.command_line import OneLineParser, existing_directory, storage_place
from distributed_fmlp.errors import UserError


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's options. Raises `OptionError` for one that can't be used."""
    parser = OneLineParser(
        prog="python -m distributed_fmlp.doctor",
        description="Check this machine or, with --cluster, a file for ray up or, with --address, "
        "every node of a running cluster. One line per check; the exit status is 0 when all is "
        "well, 1 when a check failed, 2 when something given can't be used.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--cluster", metavar="FILE", help="check a cluster file, such as cluster/config.yaml"
    )
    parser.add_argument(
        "--address", help="check the nodes of a running Ray cluster (auto, or HOST:PORT)"
    )
    parser.add_argument(
        "--storage",
        type=storage_place,
        help="the sweep's --storage (directory or URI): is it written and read by every node?",
    )
    parser.add_argument(
        "--data-dir",
        type=existing_directory,
        help="the sweep's --data-dir: is FashionMNIST in it?",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine, tell, and give the exit status: 1 when a check failed, 2 for bad input."""
    try:
        options = parse_arguments(arguments)
        # Imported late: Ray takes a second, and --help and bad options don't need it.
        from distributed_fmlp.doctor.examination import examine

        return examine(options.cluster, options.address, options.storage, options.data_dir)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
