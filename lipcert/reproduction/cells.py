"""A table's cells: what was published, what is ours, and what one says of the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from lipcert.reporting.published import Row, Table
from lipcert.reproduction.measured import Value

NEAR = {"percent": 0.5, "number": 0.05}  # points; share of the published number
WITHIN, RIGHT, WRONG, OTHER, UNMEASURED, OURS, QUOTED = (
    "within",
    "direction holds",
    "direction does not hold",
    "differs",
    "not measured",
    "ours alone",
    "published elsewhere",
)
MARKS = {WITHIN: "=", RIGHT: "+", WRONG: "x", OTHER: "~", UNMEASURED: "", OURS: "", QUOTED: ""}
LEGEND = (
    "= within 0.5 points (numbers: 5 %) of the published value; + farther, but on the same side of the row that it is "
    "compared with; x on the other side; ~ farther, in a row that nothing is compared with"
)


class Cell(NamedTuple):
    """A number of the paper and ours, either of which may be missing, and the verdict."""

    published: float | None
    ours: Value | None
    verdict: str


def cells(table: Table, values: Mapping[str, Mapping[str, Value]]) -> dict[str, dict[str, Cell]]:
    """{row: {column: cell}}; a cell that has neither number is left out."""
    found: dict[str, dict[str, Cell]] = {}
    for name, row in table.rows.items():
        for column in table.columns:
            due, ours = row.published.get(column), values.get(name, {}).get(column)
            if due is not None or ours is not None:
                verdict = _verdict(table, row, column, due, ours, values)
                found.setdefault(name, {})[column] = Cell(due, ours, verdict)
    return found


def count(found: Mapping[str, Mapping[str, Cell]]) -> dict[str, int]:
    """How many cells have each verdict."""
    verdicts = [cell.verdict for row in found.values() for cell in row.values()]
    return {word: verdicts.count(word) for word in MARKS if word in verdicts}


def reference(table: Table, row: Row) -> Row | None:
    """The row that another one is compared with: the one it names, or the first one that is trained."""
    if row.reference:
        return table.rows[row.reference]
    first = next((other for other in table.rows.values() if not table.is_quoted(other)), None)
    return None if first is None or first.name == row.name else first


def _verdict(
    table: Table,
    row: Row,
    column: str,
    due: float | None,
    ours: Value | None,
    values: Mapping[str, Mapping[str, Value]],
) -> str:
    if due is None:
        return OURS
    if ours is None:
        return QUOTED if table.is_quoted(row) else UNMEASURED
    unit = table.columns[column].unit
    if abs(ours.number - due) <= NEAR[unit] * (1 if unit == "percent" else abs(due)):
        return WITHIN
    other = reference(table, row)
    theirs = None if other is None else other.published.get(column)
    measured = None if other is None else values.get(other.name, {}).get(column)
    if theirs is None or measured is None or theirs == due:
        return OTHER
    return RIGHT if (due > theirs) == (ours.number > measured.number) else WRONG
