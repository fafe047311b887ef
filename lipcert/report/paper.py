"""One page about a paper: each of its tables with our numbers, a figure and what became of its claims."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from lipcert.report.blocks import Code, Drawing, Grid, Piece, Row, Section, Text
from lipcert.report.page import Tile, filled
from lipcert.report.svg import inline

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTION = "Circles: published. Dots: ours, with standard deviations over seeds."


class Comparison(NamedTuple):
    """A table of a paper, as the page shows it.

    name      by which `lipcert reproduce` knows it
    heading   where it stands in the paper, and what it is
    remarks   what is said before the table
    columns   headings
    rows      (heading, a text for each column)
    notes     what is said below the table
    figure    ours beside the published numbers
    claims    (what the paper says, what became of it)
    commands  that compute it
    """

    name: str
    heading: str
    remarks: Sequence[str]
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]
    notes: Sequence[str]
    figure: Figure
    claims: Sequence[tuple[str, str]]
    commands: str


def render(title: str, lead: str, tiles: Sequence[tuple[str, str, str]], tables: Sequence[Comparison]) -> str:
    """The text of the page; `tiles` are numbers that stand above all: (name, value, what it means)."""
    sections = [_section(number, table) for number, table in enumerate(tables, 1)]
    return filled(title, lead, [Tile(*tile) for tile in tiles], sections)


def _section(number: int, table: Comparison) -> Section:
    svg, _ = inline(table.figure, f"table{number}", False)
    alt = f"{table.heading}: for each column, the published numbers and ours, row by row, as in the table."
    blocks: list[Piece] = [Text(said, "note") for said in table.remarks]
    blocks.append(
        Grid("Ours, and in brackets what was published", table.columns, [Row(*row) for row in table.rows], corner="Row")
    )
    blocks += [Text(said) for said in table.notes]
    blocks.append(Drawing(f"table{number}", svg, alt, CAPTION, beside=False))
    if table.claims:
        claims = [Row(text, [verdict]) for text, verdict in table.claims]
        blocks.append(
            Grid("Claims of the paper, tested on our numbers", ["Verdict"], claims, corner="Claim", words=True)
        )
    blocks.append(Code("Commands", table.commands, folded=True))
    return Section(f"table{number}", table.heading, blocks)
