"""The report on a run directory, from its recorded numbers alone; trains nothing."""

from distributed_fmlp.report.build import build_report
from distributed_fmlp.report.summary import Summary
from distributed_fmlp.report.summary_files import render_summary

__all__ = ["Summary", "build_report", "render_summary"]
