"""`python -m distributed_fmlp.report`: report on a run, or compare several."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from distributed_fmlp.command_line import OneLineParser
from distributed_fmlp.errors import RunError, UserError
from distributed_fmlp.standard_output import tell

MANY_RATES = 8  # from here on starting processes costs less time than it saves


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's options. Raises `OptionError` for one that can't be used."""
    parser = OneLineParser(
        prog="python -m distributed_fmlp.report",
        description="Write a run's report (report.html, summary tables, plots) from its recorded "
        "numbers alone, or compare several runs on one page.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="*",
        help="a run's directory, or its name under --results (default: the newest run); several "
        "are compared",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="where runs are (default: %(default)s)",
    )
    parser.add_argument(
        "--images",
        action=argparse.BooleanOptionalAction,
        help="show the test images that the chosen model gets wrong, or leave them out; the run's "
        "later reports do the same (default: as the run's last report was asked, else show them)",
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="where the data set is (a torchvision root), for those images (default: where the "
        "sweep looks; nothing is downloaded)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="where the page goes (default: report.html in the run; for several runs "
        "comparison.html under --results)",
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


def report_one(path: Path, options: argparse.Namespace) -> None:
    """Build one run's report and print its summary."""
    from distributed_fmlp.report import build_report, render_summary
    from distributed_fmlp.run_directory import load_run

    run = load_run(path)
    rates = {trial.learning_rate for trial in run.trials}
    summary = build_report(
        run,
        images=options.images,
        data_dir=options.data_dir,
        page=options.out,
        processes=(os.cpu_count() or 1) if len(rates) >= MANY_RATES else 1,
    )
    tell(
        render_summary(summary),
        "",
        f"Report: {options.out or path / 'report.html'}",
        f"Tables: {path / 'summary.md'} (and .csv, .json)",
        f"Plots:  {path / 'plots'}",
    )


def report_several(paths: Sequence[Path], options: argparse.Namespace) -> None:
    """Compare runs on one page; the runs' own directories are only read."""
    from distributed_fmlp.report.build import build_comparison
    from distributed_fmlp.report.runs_compared import render_comparison
    from distributed_fmlp.run_directory import load_run

    page = options.out or options.results / "comparison.html"
    compared = build_comparison([load_run(path) for path in paths], page)
    tell(render_comparison(compared), "", f"Report: {page}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status: 0, 2 for what the user can put right, 130 when stopped."""
    try:
        options = parse_arguments(arguments)
        from distributed_fmlp.run_directory import newest_run

        results = options.results
        runs = [find_run(given, results) for given in options.runs] or [newest_run(results)]
        if len(runs) == 1:
            report_one(runs[0], options)
        else:
            report_several(runs, options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
