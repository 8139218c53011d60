"""Tables of text: one description, written as plain text for a terminal or as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

MISSING = "-"


@dataclass(frozen=True)
class Column:
    """A column's heading; neighbours of one group share the group's heading above theirs."""

    name: str
    group: str = ""


@dataclass(frozen=True)
class Table:
    """A titled table whose cells are text already formatted, one list a row."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Each group's heading and how many columns it spans; a column of none is by itself."""
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            if spans and column.group and spans[-1][0] == column.group:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans


def as_text(table: Table) -> str:
    """The table in aligned plain text, figures to the right, groups named above their columns."""
    columns = table.columns
    widths = [
        max([len(column.name), *(len(row[i]) for row in table.rows)])
        for i, column in enumerate(columns)
    ]
    spans = [
        (group, [i for i, _ in members])
        for group, members in groupby(enumerate(columns), lambda item: item[1].group)
    ]
    for group, members in spans:
        lacking = len(group) - (sum(widths[i] for i in members) + 2 * (len(members) - 1))
        widths[members[0]] += max(0, lacking)
    over = "  ".join(
        group.center(sum(widths[i] for i in members) + 2 * (len(members) - 1))
        if len(members) == 1 or not group
        else f" {group} ".center(sum(widths[i] for i in members) + 2 * (len(members) - 1), "-")
        for group, members in spans
    )
    lines = [table.title]
    if over.strip():
        lines.append(over)
    lines.append("  ".join(c.name.rjust(w) for c, w in zip(columns, widths, strict=True)))
    lines.append("-" * (sum(widths) + 2 * (len(widths) - 1)))
    lines += ["  ".join(v.rjust(w) for v, w in zip(row, widths, strict=True)) for row in table.rows]
    return "\n".join(line.rstrip() for line in lines)


def as_markdown(table: Table) -> str:
    """The table as GitHub Markdown, under a heading of the second level."""
    heads = [f"{column.group} {column.name}".strip() for column in table.columns]
    lines = [f"## {markdown_text(table.title)}", ""]
    lines += [_markdown_row(heads), _markdown_row(["---:"] * len(heads), escape=False)]
    lines += [_markdown_row(row) for row in table.rows]
    return "\n".join(lines)


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is: whatever could be markup or HTML is escaped."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&])", r"\\\1", " ".join(text.split()))


def _markdown_row(cells: Sequence[str], *, escape: bool = True) -> str:
    return "| " + " | ".join(markdown_text(cell) if escape else cell for cell in cells) + " |"


def percent(fraction: float | None, digits: int = 2) -> str:
    """A fraction as percent without the sign: 0.9047 is 90.47."""
    return MISSING if fraction is None else f"{100 * fraction:.{digits}f}"


def figure(value: float | None, digits: int = 4) -> str:
    """A loss or an F1 score."""
    return MISSING if value is None else f"{value:.{digits}f}"
