"""The page that sets several runs beside each other."""

from __future__ import annotations

from distributed_fmlp.report.accuracies import AccuracyRow
from distributed_fmlp.report.answer import published_interval
from distributed_fmlp.report.page import render
from distributed_fmlp.report.page_charts import accuracy_chart
from distributed_fmlp.report.published import best_published, same_data
from distributed_fmlp.report.run_facts import run_facts
from distributed_fmlp.report.runs_compared import RunsCompared, lines_table, recipes_table
from distributed_fmlp.report.summary_files import comparison_table
from distributed_fmlp.run_directory import format_learning_rate


def comparison_page(compared: RunsCompared) -> str:
    """One self-contained page; everything the runs recorded is escaped."""
    rows = _accuracy_rows(compared)
    return render(
        "comparison.html",
        {
            "title": f"{len(compared.lines)} runs compared",
            "compared": compared,
            "lines": lines_table(compared),
            "accuracies": accuracy_chart(rows) if rows else None,
            "several": any(len(row.seeds) > 1 for row in rows),
            "bests": comparison_table("Each run's best against the others'", compared.bests),
            "by_rate": comparison_table("The same learning rate in two runs", compared.by_rate),
            "over_seeds": any(pair.over_seeds for pair in (*compared.bests, *compared.by_rate)),
            "recipes": recipes_table(compared),
            "facts": [(line.name, run_facts(line.run)) for line in compared.lines],
        },
    )


def _accuracy_rows(compared: RunsCompared) -> list[AccuracyRow]:
    rows = [
        AccuracyRow(
            line.name,
            line.best.test_accuracy_percent.mean,
            line.best.accuracy_interval,
            line.best.seed_accuracies_percent,
            line is compared.best,
        )
        for line in compared.lines
        if line.best is not None
    ]
    if rows and all(same_data(line.run) for line in compared.lines):
        old = best_published()
        name = f"published {format_learning_rate(old.learning_rate)}"
        accuracy, interval = old.test_accuracy_percent, published_interval(old)
        rows.append(AccuracyRow(name, accuracy, interval, [], published_alone=True))
    return rows
