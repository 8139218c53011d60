"""Several runs on the same data set beside each other: each one's best, and each learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from distributed_fmlp.errors import RunError
from distributed_fmlp.report.answer import (
    against_published,
    apart_from_others,
    published_claim,
    verdict_words,
)
from distributed_fmlp.report.comparison import (
    PairComparison,
    RateFigures,
    best_on_validation,
    compare_groups,
    rate_figures,
    rate_groups,
)
from distributed_fmlp.report.published import best_published, same_data
from distributed_fmlp.report.run_facts import recipe
from distributed_fmlp.report.summary import substitution_banner, unfinished
from distributed_fmlp.report.summary_files import one_line, range_in_words
from distributed_fmlp.report.tables import MISSING, Column, Table, as_text, figure
from distributed_fmlp.run_directory import Run, format_learning_rate


@dataclass(frozen=True)
class RunLine:
    """One run: its name among the others, and its best learning rate on validation."""

    name: str
    run: Run
    best: RateFigures | None  # None while no trial has finished


@dataclass(frozen=True)
class RunsCompared:
    """What several runs say together."""

    lines: Sequence[RunLine]
    best: RunLine | None  # on validation
    answer: Sequence[str]
    remarks: Sequence[str]  # what is substituted, unfinished, or hinders the comparison
    bests: Sequence[PairComparison]  # each run's best learning rate against the others'
    by_rate: Sequence[PairComparison]  # the same learning rate in two runs


def compare_runs(runs: Sequence[Run]) -> RunsCompared:
    """Compare runs by their best learning rates, and by each learning rate that several have.

    Raises `RunError` when the data sets differ, a run is given twice, or predictions are damaged.
    """
    _refuse_mixtures(runs)
    names = _names(runs)
    lines = [
        RunLine(name, run, best_on_validation(rate_figures(run)))
        for name, run in zip(names, runs, strict=True)
    ]
    groups = [rate_groups(run) for run in runs]
    tops = [
        replace(each[line.best.learning_rate], name=line.name)
        for line, each in zip(lines, groups, strict=True)
        if line.best is not None
    ]
    bests = compare_groups(list(combinations(tops, 2)))
    same_rate = [
        tuple(
            replace(groups[i][rate], name=f"{names[i]} · {format_learning_rate(rate)}")
            for i in (one, two)
        )
        for one, two in combinations(range(len(runs)), 2)
        for rate in groups[one]
        if rate in groups[two]
    ]
    by_rate = compare_groups([(one, two) for one, two in same_rate])
    scored = [(line.best.val_accuracy_percent.mean, line) for line in lines if line.best]
    best = max(scored, key=lambda item: item[0])[1] if scored else None
    return RunsCompared(lines, best, _answer(lines, best, bests), _remarks(lines), bests, by_rate)


def _refuse_mixtures(runs: Sequence[Run]) -> None:
    first = runs[0]
    seen = {first.path.resolve()}
    for run in runs[1:]:
        if run.path.resolve() in seen:
            raise RunError(f"{run.path} is given twice: give each run once")
        seen.add(run.path.resolve())
        one, two = first.info["dataset"], run.info["dataset"]
        if one["sha256"] != two["sha256"]:
            raise RunError(
                f"{first.path} and {run.path} can't be compared: their data differ ("
                f"{one_line(one['name'])} {one_line(one['sha256'])[:12]}, "
                f"{one_line(two['name'])} {one_line(two['sha256'])[:12]}); "
                "give runs on the same data set"
            )


def _names(runs: Sequence[Run]) -> list[str]:
    names = [str(run.info["name"]) for run in runs]
    if len(set(names)) == len(names):
        return names
    return [f"{name} ({run.path})" for name, run in zip(names, runs, strict=True)]


def _answer(
    lines: Sequence[RunLine], best: RunLine | None, bests: Sequence[PairComparison]
) -> list[str]:
    if best is None or best.best is None:
        return ["No run has a finished trial yet, so there is no answer yet."]
    figures = best.best
    over = f"the mean of {len(figures.seeds)} seeds" if len(figures.seeds) > 1 else "from one seed"
    sentences = [
        f"Of {len(lines)} runs, {best.name} has the best learning rate on validation, "
        f"{format_learning_rate(figures.learning_rate)}: {figures.val_accuracy_percent.mean:.2f} "
        f"%, {over}.",
        *apart_from_others(best.name, bests),
    ]
    mine = f"Its test accuracy is {figures.test_accuracy_percent.mean:.2f} %"
    if figures.accuracy_interval:
        mine += f" (95 % interval {range_in_words(figures.accuracy_interval)} %)"
    sentences.append(f"{mine}.")
    if same_data(best.run):
        words = verdict_words(against_published(figures, best_published()), "it")
        sentences.append(f"The best published figure, {published_claim()}: {best.name} {words}.")
    return sentences


def _remarks(lines: Sequence[RunLine]) -> list[str]:
    remarks = []
    for line in lines:
        for words in (substitution_banner(line.run), unfinished(line.run)):
            if words:
                remarks.append(f"{line.name}: {words}")
    splits = {str((line.run.info.get("split") or {}).get("sha256")) for line in lines}
    if len(splits) > 1:
        remarks.append(
            "The runs were chosen on different validation images, so their validation accuracies "
            "are not of the same thing."
        )
    return remarks


# Tables


def lines_table(compared: RunsCompared) -> Table:
    """One line a run: its best learning rate on validation, at its chosen epochs."""
    columns = [Column("run"), Column("learning rate"), Column("seeds")]
    columns += [Column("acc %", "validation"), Column("loss", "test"), Column("acc %", "test")]
    columns += [Column(name, "test") for name in ("SD", "95 % interval", "F1")]
    rows = []
    for line in compared.lines:
        figures = line.best
        if figures is None:
            rows.append([line.name, *[MISSING] * 8])
            continue
        rows.append(
            [
                line.name + ("\nbest on validation" if line is compared.best else ""),
                format_learning_rate(figures.learning_rate),
                str(len(figures.seeds)),
                figure(figures.val_accuracy_percent.mean, 2),
                figure(figures.test_loss.mean),
                figure(figures.test_accuracy_percent.mean, 2),
                figure(figures.test_accuracy_percent.deviation, 2),
                range_in_words(figures.accuracy_interval),
                figure(figures.test_f1.mean),
            ]
        )
    return Table("Each run's best learning rate on validation", columns, rows)


def recipes_table(compared: RunsCompared) -> Table | None:
    """What the runs were asked for, where they differ; None when they don't."""
    recipes: list[dict[str, Any]] = [recipe(line.run) for line in compared.lines]
    keys = dict.fromkeys(key for each in recipes for key in each)
    rows = []
    for key in keys:
        values = [each.get(key, MISSING) for each in recipes]
        if len(set(values)) > 1:
            rows.append([key, *values])
    if not rows:
        return None
    columns = [Column("what"), *(Column(line.name) for line in compared.lines)]
    return Table("Where their recipes differ", columns, rows)


def render_comparison(compared: RunsCompared) -> str:
    """The comparison as plain text for a terminal, with no line end after its last line."""
    table = lines_table(compared)
    plain = [[one_line(cell.split("\n")[0]) for cell in row] for row in table.rows]
    words = [one_line(line) for line in (*compared.answer, *compared.remarks)]
    return as_text(Table(table.title, table.columns, plain)) + "\n\n" + "\n".join(words)
