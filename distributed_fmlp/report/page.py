"""The page `report.html`: one file with everything in it, made from a run's recorded numbers."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from distributed_fmlp.report.accuracies import accuracy_rows
from distributed_fmlp.report.answer import published_interval
from distributed_fmlp.report.choices import choices_table
from distributed_fmlp.report.comparison import best_on_validation
from distributed_fmlp.report.cost import EpochCost, epoch_cost, total, trial_costs
from distributed_fmlp.report.gallery import Gallery
from distributed_fmlp.report.page_charts import accuracy_chart, reliability_chart
from distributed_fmlp.report.rate_view import rate_views
from distributed_fmlp.report.run_facts import duration, run_facts
from distributed_fmlp.report.summary import Summary
from distributed_fmlp.report.summary_files import pairs_table, range_in_words, summary_tables
from distributed_fmlp.report.tables import MISSING, Column, Table, figure
from distributed_fmlp.report.trust import Trust
from distributed_fmlp.run_directory import Run, format_learning_rate

if TYPE_CHECKING:
    from jinja2 import Environment


def report_page(run: Run, summary: Summary, trust: Trust | None, gallery: Gallery) -> str:
    """The page of one run. Everything the run recorded is escaped."""
    best = best_on_validation([row.figures for row in summary.rates])
    names = run.info["dataset"]["class_names"]
    return render(
        "report.html",
        {
            "title": f"{summary.run} · report",
            "run": run,
            "summary": summary,
            "facts": run_facts(run),
            "command": run.info.get("command"),
            "names": names,
            "rates_head": _rates_table(summary),
            "accuracies": accuracy_chart(accuracy_rows(summary.rates)) if summary.rates else None,
            "trial_tables": [_marked_in_words(table) for table in summary_tables(summary)],
            "pairs": pairs_table(summary) if summary.pairs else None,
            "over_seeds": any(pair.over_seeds for pair in summary.pairs),
            "rates": rate_views(run, best.learning_rate if best else None),
            "trust": trust,
            "reliability": reliability_chart(trust.bins) if trust else None,
            "bins": _bins_table(trust) if trust else None,
            "confusions": _confusions_table(run, trust) if trust else None,
            "gallery": gallery,
            "costs": _costs_table(run),
            "choices": choices_table(run),
        },
    )


def render(template: str, values: dict[str, Any]) -> str:
    """Fill one of the package's templates; all values are escaped."""
    return environment().get_template(template).render(values)


@cache
def environment() -> Environment:
    """The templates of the package; a name that is not given is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("distributed_fmlp.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["thousands"] = lambda value: f"{value:,}"
    # Nothing is certain: what would round to 100 is said to be close to it.
    made.filters["sure"] = lambda value: f"{100 * value:.2f}" if value < 0.99995 else "> 99.99"
    return made


def _marked_in_words(table: Table) -> Table:
    """A table of trials with its column of marks turned into words beside the learning rate."""
    rows = [[rate + ("\nchosen" if mark else ""), *cells] for mark, rate, *cells in table.rows]
    title = table.title.replace(" (* is the chosen trial)", "")
    return Table(title, [Column("learning rate"), *table.columns[2:]], rows)


def _rates_table(summary: Summary) -> Table:
    """Each learning rate in one line; what stands in brackets in a cell goes on its second line."""
    beside = summary.not_beside is None
    several = any(len(row.figures.seeds) > 1 for row in summary.rates)
    columns = [Column("learning rate"), Column("seeds"), Column("acc %", "validation")]
    columns += [Column(name, "test") for name in ("loss", "acc %", "F1")]
    if beside:
        columns += [Column(name, "published test") for name in ("loss", "acc %", "F1")]
        columns.append(Column("ours is", "published test"))
    rows = []
    for row in summary.rates:
        figures = row.figures
        cells = [
            format_learning_rate(figures.learning_rate)
            + ("\nbest on validation" if row.best_on_validation else ""),
            str(len(figures.seeds)),
        ]
        for estimate, digits in (
            (figures.val_accuracy_percent, 2),
            (figures.test_loss, 4),
            (figures.test_accuracy_percent, 2),
            (figures.test_f1, 4),
        ):
            lines = [figure(estimate.mean, digits)]
            if estimate.deviation is not None:
                lines.append(f"SD {figure(estimate.deviation, digits)}")
            interval = estimate.interval
            if estimate is figures.test_accuracy_percent:
                interval = figures.accuracy_interval
            if interval is not None:
                lines.append(range_in_words(interval, digits))
            cells.append("\n".join(lines))
        if beside:
            old = row.published
            cells += [
                figure(old.test_loss if old else None),
                figure(old.test_accuracy_percent, 2)
                + f"\n{range_in_words(published_interval(old), 2)}"
                if old
                else MISSING,
                figure(old.test_f1 if old else None),
                row.against_published or MISSING,
            ]
        rows.append(cells)
    over = "mean over seeds, standard deviation (SD) and 95 % interval" if several else (
        "one seed each; the range is the 95 % interval of the accuracy"
    )  # fmt: skip
    return Table(f"Each learning rate at its chosen epochs: {over}", columns, rows)


def _bins_table(trust: Trust) -> Table:
    columns = [Column(name) for name in ("confidence %", "images", "mean %", "right %")]
    rows = [
        [
            f"{100 * each.low:.0f} to {100 * each.high:.0f}",
            f"{each.n:,}",
            figure(None if each.confidence is None else 100 * each.confidence, 1),
            figure(None if each.accuracy is None else 100 * each.accuracy, 1),
        ]
        for each in trust.bins
    ]
    return Table("Confidence and accuracy", columns, rows)


def _confusions_table(run: Run, trust: Trust) -> Table:
    names = run.info["dataset"]["class_names"]
    matrix = next(
        t.test_best.confusion_matrix
        for t in run.trials
        if t.trial_id == trust.trial_id and t.test_best
    )
    rows = [
        [
            names[each.true],
            names[each.predicted],
            f"{each.n:,}",
            f"{100 * each.n / sum(matrix[each.true]):.1f}",
        ]
        for each in trust.confusions
    ]
    columns = [Column("is"), Column("taken for"), Column("images"), Column("% of the class")]
    return Table("Classes most often confused", columns, rows)


def _costs_table(run: Run) -> Table | None:
    costs = trial_costs(run)
    if not costs:
        return None
    with_gpus = any(cost.gpu_hours is not None for cost in costs)
    columns = [
        Column("trial"),
        Column("epochs"),
        Column("median s (range)", "an epoch"),
        Column("median images per s", "an epoch"),
        Column("CPU threads"),
        Column("CPU hours"),
        *([Column("GPU hours")] * with_gpus),
    ]
    rows = [
        [
            cost.trial_id,
            str(cost.epochs),
            *_epoch_cells(cost.epoch),
            MISSING if cost.threads is None else f"{cost.threads:g}",
            figure(cost.cpu_hours, 3),
            *([figure(cost.gpu_hours, 3)] * with_gpus),
        ]
        for cost in costs
    ]
    epochs = [row for trial in run.trials for row in trial.epochs]
    seconds = sum(cost.seconds for cost in costs)
    rows.append(
        [
            "all",
            str(len(epochs)),
            *_epoch_cells(epoch_cost(epochs)),
            "",
            figure(total([cost.cpu_hours for cost in costs]), 3),
            *([figure(total([cost.gpu_hours for cost in costs]), 3)] * with_gpus),
        ]
    )
    title = f"Cost of {len(costs)} trials: {duration(seconds)} of epochs, some of them at once"
    return Table(title, columns, rows)


def _epoch_cells(cost: EpochCost) -> tuple[str, str]:
    spread = f"{cost.least_seconds:.1f} to {cost.most_seconds:.1f}"
    return f"{cost.seconds:.1f}\n{spread}", f"{cost.images_per_second:,.0f}"
