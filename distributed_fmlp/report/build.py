"""Write reports: a run's tables, plots and page, or one page that compares several runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from distributed_fmlp.errors import DataError, RunError
from distributed_fmlp.report.accuracies import accuracy_rows
from distributed_fmlp.report.gallery import Gallery, load_gallery
from distributed_fmlp.report.runs_compared import RunsCompared, compare_runs
from distributed_fmlp.report.shown_images import load_shows_images, save_shows_images
from distributed_fmlp.report.summary import Summary, summarize
from distributed_fmlp.report.summary_files import summary_csv, summary_json, summary_markdown
from distributed_fmlp.report.trust import Trust, trust_of_chosen
from distributed_fmlp.run_directory import Run, write_bytes, write_json, write_text


def build_report(
    run: Run,
    *,
    images: bool | None = None,
    data_dir: Path | None = None,
    page: Path | None = None,
    processes: int = 1,
) -> Summary:
    """Write `summary.csv`, `.md` and `.json`, `plots/*.png` and `report.html`; return the summary.

    Works on a run that is unfinished, and says so in what it writes. With `images` the page shows
    test images where the data is on this machine, looked for in `data_dir` and then where the
    sweep looks; nothing is downloaded. The run keeps whether it has them in `report.json`, and a
    report that isn't told (`None`) does as that says: a page to be published stays without.
    `page` is another place for `report.html`, and then nothing is kept. Several `processes` draw
    the plots of many learning rates at once (see `draw_plots`).

    Raises `RunError` when recorded predictions are damaged or the directory can't be written, and
    `DataError` when `data_dir` is given and its files can't be used; nothing is written then.
    """
    from distributed_fmlp.report.page import report_page
    from distributed_fmlp.report.plots import draw_plots  # matplotlib takes its time

    shows = load_shows_images(run.path) if images is None else images
    summary, trust = summarize(run), trust_of_chosen(run)
    html = report_page(run, summary, trust, _gallery(run, trust, shows, data_dir))
    target = run.path / "report.html" if page is None else page
    with _writing(run.path):
        if images is not None and page is None:  # before the page, which is never to be without it
            save_shows_images(run.path, images)
        write_text(run.path / "summary.csv", summary_csv(summary))
        write_text(run.path / "summary.md", summary_markdown(summary))
        write_json(run.path / "summary.json", summary_json(summary))
        for name, png in draw_plots(run, accuracy_rows(summary.rates), processes=processes):
            write_bytes(run.path / "plots" / name, png)
    with _writing(target):
        write_text(target, html)
    return summary


def build_comparison(runs: Sequence[Run], page: Path) -> RunsCompared:
    """Write a page that compares runs; the runs' own directories are only read.

    Raises `RunError` when the runs can't be compared or the page can't be written.
    """
    from distributed_fmlp.report.comparison_page import comparison_page

    compared = compare_runs(runs)
    html = comparison_page(compared)
    with _writing(page):
        write_text(page, html)
    return compared


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise RunError(
            f"the report can't be written to {path}: {reason}; make room there or make it "
            "writable, and run the report again"
        ) from error


def _gallery(run: Run, trust: Trust | None, images: bool, data_dir: Path | None) -> Gallery:
    if not images:
        return Gallery([], "The images are left out, as asked.")
    if trust is None:
        return Gallery([], None)
    positions = [each.position for each in trust.wrong]
    recorded = run.info["options"].get("data_dir")
    if data_dir is None and isinstance(recorded, str):
        # Where the sweep found the data; gone or damaged since, it is nobody's mistake.
        try:
            found = load_gallery(run, positions, Path(recorded))
        except DataError:
            found = Gallery([], None)
        if found.pictures:
            return found
    return load_gallery(run, positions, data_dir)
