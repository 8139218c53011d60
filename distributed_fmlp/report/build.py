"""Write a run's tables and plots into its directory, from its recorded numbers alone."""

from __future__ import annotations

from distributed_fmlp.errors import RunError
from distributed_fmlp.report.summary import (
    Summary,
    summarize,
    summary_csv,
    summary_json,
    summary_markdown,
)
from distributed_fmlp.run_directory import Run, write_bytes, write_json, write_text


def build_report(run: Run) -> Summary:
    """Write `summary.csv`, `summary.md`, `summary.json` and `plots/*.png`; return the summary.

    Works on a run that is unfinished, and says so in what it writes. Raises `RunError` when the
    run's directory can't be written.
    """
    from distributed_fmlp.report.plots import draw_plots  # matplotlib takes its time

    summary = summarize(run)
    try:
        write_text(run.path / "summary.csv", summary_csv(summary))
        write_text(run.path / "summary.md", summary_markdown(summary))
        write_json(run.path / "summary.json", summary_json(summary))
        for name, png in draw_plots(run):
            write_bytes(run.path / "plots" / name, png)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise RunError(
            f"the report can't be written to {run.path}: {reason}; make room there or make it "
            "writable, and run the report again"
        ) from error
    return summary
