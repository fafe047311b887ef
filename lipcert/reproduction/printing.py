"""A table as its paper prints it, ours beside it: for a terminal, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence

from rich import box
from rich.markup import escape
from rich.table import Table as RichTable

from lipcert.reporting.published import Column, Row, Table
from lipcert.reproduction.cells import LEGEND, MARKS, Cell, count
from lipcert.reproduction.measured import Value

Cells = Mapping[str, Mapping[str, Cell]]


def as_published(table: Table, row: Row, column: str) -> str:
    """A number of the paper: `?` marks one that is not to be relied on, `>` one that is a lower bound."""
    value = f"{row.published[column]:g}" if column in row.published else ""
    return f"{'> ' if column in row.at_least else ''}{value}{' ?' if column in row.uncertain else ''}"


def ours(value: Value | None, column: Column) -> str:
    """Our number, ± the standard deviation over seeds where there are several."""
    if value is None:
        return ""
    digits = 2 if column.unit == "percent" else 4
    shown = f"{value.number:.{digits}f}" if column.unit == "percent" else f"{value.number:.{digits}g}"
    return shown if value.spread is None else f"{shown} ± {value.spread:.2g}"


def for_terminal(table: Table, found: Cells) -> RichTable:
    """The published table; where something was measured, ours stands above the published number, with its mark."""
    printed = RichTable(box=box.SIMPLE_HEAD)
    printed.add_column("row", no_wrap=True)
    printed.add_column("", overflow="fold")
    for column in table.columns.values():
        printed.add_column(escape(column.title), justify="right")
    for row in table.rows.values():
        cells = [_both(table, row, name, found) for name in table.columns]
        printed.add_row(row.name, escape(row.title), *cells)
    return printed


def _both(table: Table, row: Row, name: str, found: Cells) -> str:
    cell, due = found.get(row.name, {}).get(name), as_published(table, row, name)
    if cell is None or cell.ours is None:
        return due
    mark = MARKS[cell.verdict]
    return f"[bold]{ours(cell.ours, table.columns[name])}[/bold]{f' {mark}' if mark else ''}" + (
        f"\n({due})" if due else ""
    )


def verdicts(found: Cells, claims: Sequence[tuple[str, str]]) -> Iterator[str]:
    """The lines below a table: what `counted` says, and each claim with its verdict."""
    yield from counted(found)
    for text, verdict in claims:
        yield f"Claim: {text} [{verdict}]"


def counted(found: Cells) -> Iterator[str]:
    """What marks mean, and how many cells have which verdict."""
    if any(cell.ours for row in found.values() for cell in row.values()):
        yield f"Ours first, published in brackets. {LEGEND}."
    numbers = ", ".join(f"{number} {word}" for word, number in count(found).items())
    yield f"Cells: {numbers}." if numbers else "No cell has a number."


def remarks(table: Table) -> Iterator[str]:
    """What is to be said of the table: its note, those of columns and rows, uncertain values."""
    if table.note:
        yield table.note
    for column in table.columns.values():
        if column.note:
            yield f"{column.title}: {column.note}"
    for row in table.rows.values():
        if row.note:
            yield f"{row.name}: {row.note}"
        for name, reason in row.uncertain.items():
            yield f"{row.name}, {table.columns[name].title}: {reason}"


def cell_text(table: Table, row: Row, name: str, found: Cells) -> str:
    """Our number with its mark, and the published one in brackets."""
    cell, due = found.get(row.name, {}).get(name), as_published(table, row, name)
    printed = f"({due})" if due else ""
    if cell is None or cell.ours is None:
        return printed
    return " ".join(word for word in (ours(cell.ours, table.columns[name]), MARKS[cell.verdict], printed) if word)


def as_markdown(table: Table, found: Cells) -> Iterator[str]:
    """The lines of a Markdown table, ours before the published number."""
    titles = ["row", *(f"{column.title}" for column in table.columns.values())]
    yield f"| {' | '.join(titles)} |"
    yield f"|---|{'---:|' * len(table.columns)}"
    for row in table.rows.values():
        cells = []
        for name in table.columns:
            cell, text = found.get(row.name, {}).get(name), cell_text(table, row, name, found)
            number = "" if cell is None else ours(cell.ours, table.columns[name])
            cells.append(f"**{number}**{text.removeprefix(number)}" if number else text)
        yield f"| {row.title} | {' | '.join(cells)} |".replace("  ", " ")


def as_csv(table: Table, found: Cells) -> str:
    """A line for each cell: row, column, published, ours, standard deviation, runs, standard error, verdict."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["row", "column", "published", "ours", "spread", "runs", "error", "verdict"])
    for row, mine in found.items():
        for column, cell in mine.items():
            value = cell.ours or Value(float("nan"), None, 0, None)
            numbers = [
                "" if cell.ours is None else repr(value.number),
                *map(_text, (value.spread, value.runs, value.error)),
            ]
            writer.writerow([row, column, _text(cell.published), *numbers, cell.verdict])
    return out.getvalue()


def _text(number: float | None) -> str:
    return "" if number is None else repr(number)
