"""The page of a paper: all of its tables that were measured at a scale, in one file for a browser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lipcert.report import paper
from lipcert.reporting import published
from lipcert.reporting.published import Table
from lipcert.reproduction import claims, page, printing
from lipcert.reproduction.cells import Cell, cells, count
from lipcert.reproduction.figure import table_figure
from lipcert.reproduction.jobs import Job, jobs, scale_of
from lipcert.reproduction.measured import measure, with_quoted

Judged = list[tuple[str, str]]


class Found:
    """What was measured of a table at a scale: `cells`, `claims` with their verdicts, and the `jobs` behind it."""

    def __init__(self, table: Table, scale: str, seeds: int | None, output: Path, data_dir: str | None = None):
        self.table, self.scale, self.of = table, scale, scale_of(table, scale)
        self.jobs: list[Job] = jobs(table, scale, None, seeds, output, data_dir)
        values = measure(table, self.of, self.jobs)
        self.cells: dict[str, dict[str, Cell]] = cells(table, values)
        known = with_quoted(table, values)
        tested = ((c.text, claims.judge(c.test, known) if c.test else claims.UNTESTED) for c in table.claims)
        self.claims: Judged = list(tested)

    def is_measured(self) -> bool:
        """Whether any cell has a number of ours."""
        return any(cell.ours for row in self.cells.values() for cell in row.values())


def of_paper(paper_name: str, scale: str, output: Path) -> list[Found]:
    """The tables of a paper, by the first part of their names, that were measured at a scale."""
    tables = [published.load(name) for name in published.names() if name.startswith(f"{paper_name}/")]
    due = [table for table in tables if (output / table.name / scale / page.RESULT).exists()]
    return [found for table in due if (found := Found(table, scale, None, output)).is_measured()]


def render(tables: Sequence[Found]) -> str:
    """The text of the page about tables of one paper."""
    first = tables[0].table
    verdicts = [verdict for found in tables for _, verdict in found.claims]
    counted: dict[str, int] = {}
    for found in tables:
        for word, number in count(found.cells).items():
            counted[word] = counted.get(word, 0) + number
    tiles = [
        (
            "claims hold",
            f"{verdicts.count(claims.HOLDS)} of {len(verdicts)}",
            "of those that these tables are evidence for",
        ),
        *((word, str(number), "cells") for word, number in counted.items()),
    ]
    lead = f"Tables and figures at scale={tables[0].scale}, beside what was published. {printing.LEGEND}."
    return paper.render(first.source, lead, tiles[:4], [_comparison(found) for found in tables])


def _comparison(found: Found) -> paper.Comparison:
    table, columns = found.table, found.table.columns
    rows = [
        (row.title, [printing.cell_text(table, row, name, found.cells) for name in columns])
        for row in table.rows.values()
    ]
    numbers = ", ".join(f"{number} {word}" for word, number in count(found.cells).items())
    return paper.Comparison(
        name=table.name,
        heading=f"{table.place}: {table.title}",
        remarks=[f"At this scale: {found.of.note}"] if found.of.note else [],
        columns=[column.title for column in columns.values()],
        rows=rows,
        notes=[
            f"Cells: {numbers}.",
            *([f"Our reading: {found.of.reading}"] if found.of.reading else []),
            *printing.remarks(table),
        ],
        figure=table_figure(table, found.cells),
        claims=found.claims,
        commands="\n".join(page.commands(found.jobs)),
    )
