"""The summary as tables, terminal text, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from distributed_fmlp.report.comparison import PairComparison
from distributed_fmlp.report.statistics import Interval, p_in_words
from distributed_fmlp.report.summary import RateRow, Summary, SummaryRow
from distributed_fmlp.report.tables import (
    MISSING,
    Column,
    Table,
    as_markdown,
    as_text,
    figure,
    markdown_text,
)
from distributed_fmlp.run_directory import format_learning_rate


def summary_tables(summary: Summary) -> list[Table]:
    """Two tables: the epoch chosen on validation, and the last epoch, beside the published."""
    beside = summary.not_beside is None
    with_status = any(row.status != "finished" for row in summary.rows)
    with_drawn = any(row.hyperparameters for row in summary.rows)
    trial_columns = [Column(""), Column("rate", "learning"), Column("seed")]
    chosen_columns = [
        *trial_columns,
        *([Column("with")] if with_drawn else []),
        *([Column("status")] if with_status else []),
        *(Column(name, "validation") for name in ("epoch", "acc %")),
        *(Column(name, "test") for name in ("loss", "acc %", "F1")),
    ]
    last_columns = [
        *trial_columns,
        Column("epoch"),
        *(Column(name, "training") for name in ("loss", "acc %")),
        *(Column(name, "test") for name in ("loss", "acc %", "F1")),
    ]
    if beside:
        chosen_columns += [Column(name, "published test") for name in ("loss", "acc %", "F1")]
        last_columns += [Column(name, "published train") for name in ("loss", "acc %")]
    chosen_rows, last_rows = [], []
    for row in summary.rows:
        mark, rate = "*" if row.chosen else "", format_learning_rate(row.learning_rate)
        chosen_cells = [mark, rate, str(row.seed)]
        chosen_cells += [row.hyperparameters] if with_drawn else []
        chosen_cells += [row.status] if with_status else []
        chosen_cells += [_count(row.chosen_epoch), figure(row.val_accuracy_percent, 2)]
        chosen_cells += _scores(row.test_loss, row.test_accuracy_percent, row.test_f1)
        last_cells = [mark, rate, str(row.seed), _count(row.last_epoch)]
        last_cells += _scores(row.last_train_loss, row.last_train_accuracy_percent)
        last_cells += _scores(row.last_test_loss, row.last_test_accuracy_percent, row.last_test_f1)
        if beside:
            published = (row.published_test_loss, row.published_test_accuracy_percent)
            chosen_cells += _scores(*published, row.published_test_f1)
            last_cells += _scores(row.published_train_loss, row.published_train_accuracy_percent)
        chosen_rows.append(chosen_cells)
        last_rows.append(last_cells)
    return [
        Table(
            "The epoch chosen on validation (* is the chosen trial)", chosen_columns, chosen_rows
        ),
        Table("The last epoch", last_columns, last_rows),
    ]


def rates_table(summary: Summary) -> Table:
    """Each learning rate over its seeds: mean, standard deviation and 95 % interval in rows."""
    beside = summary.not_beside is None
    columns = [
        *(Column(""), Column("rate", "learning"), Column(""), Column("val acc %")),
        *(Column(name, "test") for name in ("loss", "acc %", "F1")),
    ]
    if beside:
        columns += [Column(name, "published test") for name in ("loss", "acc %", "F1")]
    rows: list[list[str]] = []
    for rate in summary.rates:
        for kind, values in _statistics(rate):
            first = kind not in ("SD", "low", "high")
            mark = "*" if rate.best_on_validation else ""
            name = format_learning_rate(rate.figures.learning_rate)
            cells = [mark, name] if first else [""] * 2
            cells += [kind, figure(values[0], 2), *_scores(values[1], values[2], values[3])]
            if beside:
                published = rate.published
                cells += (
                    _scores(published.test_loss, published.test_accuracy_percent, published.test_f1)
                    if first and published
                    else [MISSING if first else ""] * 3
                )
            rows.append(cells)
    return Table(
        "Each learning rate (low, high: 95 % interval; * best on validation)", columns, rows
    )


def _statistics(row: RateRow) -> list[tuple[str, list[float | None]]]:
    """Rows of validation accuracy, test loss, accuracy and F1: what kind, and the figures."""
    figures = row.figures
    estimates = (
        figures.val_accuracy_percent,
        figures.test_loss,
        figures.test_accuracy_percent,
        figures.test_f1,
    )
    several = len(figures.seeds) > 1
    intervals = [each.interval for each in estimates]
    intervals[2] = figures.accuracy_interval
    rows: list[tuple[str, list[float | None]]] = [
        (
            f"mean of {len(figures.seeds)}" if several else "one seed",
            [each.mean for each in estimates],
        )
    ]
    if several:
        rows.append(("SD", [each.deviation for each in estimates]))
    rows.append(("low", [each.low if each else None for each in intervals]))
    rows.append(("high", [each.high if each else None for each in intervals]))
    return rows


def pairs_table(summary: Summary) -> Table:
    """Every pair of learning rates: over seeds and on the shared images, with words."""
    return comparison_table("Which differences are real", summary.pairs)


def comparison_table(title: str, pairs: Sequence[PairComparison]) -> Table:
    """Pairs of groups: the first against the second, over seeds and on the shared images.

    Without a pair that shares several seeds there are no columns over seeds.
    """
    seeds = any(pair.over_seeds for pair in pairs)
    columns = [Column("first"), Column("second")]
    if seeds:
        over = ("first is", "points", "95 % interval", "p", "seeds")
        columns += [Column(name, "test accuracy over seeds") for name in over]
    same = ("first is", "right alone: first", "second", "p")
    columns += [Column(name, "same images") for name in same]
    rows = []
    for pair in pairs:
        over_seeds = _over_seeds(pair) if seeds else []
        rows.append([pair.first, pair.second, *over_seeds, *_on_images(pair)])
    return Table(title, columns, rows)


def _over_seeds(pair: PairComparison) -> list[str]:
    difference = pair.difference
    if difference is None:
        return [pair.difference_words, MISSING, MISSING, MISSING, "0"]
    return [
        pair.difference_words,
        f"{round(difference.mean, 2) + 0.0:+.2f}",  # never -0.00
        range_in_words(difference.interval, signed=True),
        p_in_words(pair.difference_p),
        str(difference.n),
    ]


def _on_images(pair: PairComparison) -> list[str]:
    images = pair.images
    alone = [f"{images.only_first:,}", f"{images.only_second:,}"] if images else [MISSING] * 2
    return [pair.images_words, *alone, p_in_words(pair.images_p)]


def range_in_words(interval: Interval | None, digits: int = 2, *, signed: bool = False) -> str:
    """An interval's two ends: 89.52 to 89.93."""
    if interval is None:
        return MISSING
    sign = "+" if signed else ""
    return f"{interval.low:{sign}.{digits}f} to {interval.high:{sign}.{digits}f}"


def _count(value: int | None) -> str:
    return MISSING if value is None else str(value)


def _scores(loss: float | None, accuracy_percent: float | None, *f1: float | None) -> list[str]:
    return [figure(loss), figure(accuracy_percent, 2), *(figure(value) for value in f1)]


def render_summary(summary: Summary) -> str:
    """The summary as plain text for a terminal, with no line end after its last line."""
    parts = [f"Run {one_line(summary.run)} on {one_line(summary.dataset)}"]
    if any(len(rate.figures.seeds) > 1 for rate in summary.rates):
        parts.append(as_text(rates_table(summary)))
    parts += [as_text(table) for table in summary_tables(summary)]
    parts.append("\n".join(summary.answer))
    parts.append("\n".join([summary.chosen_because, *_remarks(summary)]))
    if summary.banner:
        parts = [summary.banner, *parts, summary.banner]
    return "\n\n".join(parts)


def summary_markdown(summary: Summary) -> str:
    """`summary.md`."""
    parts = [f"# Run {markdown_text(summary.run)} on {markdown_text(summary.dataset)}"]
    banner = [f"**{markdown_text(summary.banner)}**"] if summary.banner else []
    parts += banner
    parts.append(markdown_text(" ".join(summary.answer)))
    parts += [markdown_text(line) for line in [summary.chosen_because, *_remarks(summary)]]
    tables = summary_tables(summary)
    if summary.rates:
        tables.insert(0, rates_table(summary))
    if summary.pairs:
        tables.append(pairs_table(summary))
    for table in tables:
        heading, _, body = as_markdown(table).partition("\n\n")
        parts += [heading, *banner, body]
    return "\n\n".join(parts) + "\n"


def summary_csv(summary: Summary) -> str:
    """`summary.csv`: every figure in full, with what the data was in each row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [item.name for item in fields(SummaryRow)]
    writer.writerow([*names, "dataset", "dataset_substituted"])
    for row in summary.rows:
        values = [getattr(row, name) for name in names]
        cells = [one_line(value) if isinstance(value, str) else value for value in values]
        writer.writerow([*cells, summary.dataset, summary.banner is not None])
    return text.getvalue()


def summary_json(summary: Summary) -> dict[str, Any]:
    """`summary.json`: the same figures and sentences, ready for `write_json`."""
    value = asdict(summary)
    del value["path"]  # the directory may be moved, and what it holds stays true
    return value


def _remarks(summary: Summary) -> list[str]:
    remarks = (summary.state, summary.search, *summary.failures, summary.not_beside)
    return [line for line in remarks if line]


def one_line(text: str) -> str:
    """Text on one line with nothing a terminal would obey."""
    # No control characters: a name could hold anything, and a terminal would obey them.
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
