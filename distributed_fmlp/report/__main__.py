"""`python -m distributed_fmlp.report`: rebuild the tables and plots of finished or running runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from distributed_fmlp.errors import RunError, UserError


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's options; `--help` and a wrong option end the program as argparse does."""
    parser = argparse.ArgumentParser(
        prog="python -m distributed_fmlp.report",
        description="Rebuild a run's summary tables and plots from its recorded numbers.",
    )
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="*",
        help="a run's directory, or its name under --results (default: the newest run)",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="where runs are (default: %(default)s)",
    )
    return parser.parse_args(arguments)


def find_run(given: str, results: Path) -> Path:
    """A run's directory from a path or a name under `results`; `RunError` when neither is there."""
    try:
        for path in (Path(given), results / given):
            if given and (path / "run.json").is_file():
                return path
        for path in (results / given, Path(given)):
            if given and path.is_dir():
                return path  # reading it says why it is no run
    except OSError as error:  # too long for a file's name, or in a directory that is closed to us
        raise RunError(f"no run {given!r}: {error.strerror}; see --results") from error
    raise RunError(f"no run {given!r}, neither as a directory nor under {results}; see --results")


def report(paths: Sequence[Path]) -> None:
    """Build each run's report and print its summary; every run is read before any is written."""
    from distributed_fmlp.report import build_report, render_summary
    from distributed_fmlp.run_directory import load_run

    for position, run in enumerate([load_run(path) for path in paths]):
        summary = build_report(run)
        print("\n\n" if position else "", render_summary(summary), sep="", end="\n\n")
        print(f"Tables: {run.path / 'summary.md'} (and .csv, .json)")
        print(f"Plots:  {run.path / 'plots'}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status: 0, or 2 for what the user can put right."""
    options = parse_arguments(arguments)
    try:
        from distributed_fmlp.run_directory import newest_run

        results = options.results
        runs = [find_run(given, results) for given in options.runs] or [newest_run(results)]
        report(runs)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
