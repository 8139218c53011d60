"""`python -m distributed_fmlp.tune`: run or resume a sweep."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from distributed_fmlp import options
from distributed_fmlp.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sweep.

    The exit status is 0, 1 when a trial failed, 2 for bad input, 130 when stopped.
    """
    try:
        request = options.parse(arguments)
        # Imported late: Ray and torch take seconds, and --help and bad options need neither.
        from distributed_fmlp.ray_session import configure_environment

        configure_environment(private=request.options.address is None)
        from distributed_fmlp.sweep.run import run_sweep

        return run_sweep(request)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped before the first epoch; nothing is kept", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
