"""How much of an image's true robustness its certificate proves: radii, estimates and distances, and their ratios."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lipcert.reporting.numbers import decimal

if TYPE_CHECKING:
    from rich.table import Table

ROUNDING = 1e-9  # relative: a gradient as steep as its bound is computed with this error at most


class TightnessRow(NamedTuple):
    """One line of tightness.csv: one test image. Misclassified ones have 0 in the last four columns.

    `certified_radius` is proved. The estimates are what radii would be if no margin were steeper than the steepest
    gradient seen, near any image (global) or near this one (local): the truth may be less, and no radius is claimed.
    """

    index: int  # type: ignore[assignment]
    label: int
    prediction: int
    margin: float
    certified_radius: float
    global_estimate: float
    local_estimate: float
    attack_distance: float


class Ratio(NamedTuple):
    """`above`/`below`: at least 1 but for `attack_distance` over an estimate, which is no bound."""

    number: str
    above: str
    below: str

    def __str__(self) -> str:
        return f"{self.number} {self.above} / {self.below}".replace("_", " ").strip()

    def of(self, row: TightnessRow) -> float:
        above, below = getattr(row, self.above), getattr(row, self.below)
        return 1.0 if above == below else above / below


COLUMNS = TightnessRow._fields[4:]
RATIOS = (
    Ratio("(i)", "global_estimate", "certified_radius"),
    Ratio("(ii)", "local_estimate", "global_estimate"),
    Ratio("(iii)", "attack_distance", "local_estimate"),
    Ratio("", "attack_distance", "certified_radius"),
)
BOUNDS = {"corollary1": "Corollary 1", "parseval": "Parseval", "peck": "Peck"}


def compared(rows: Sequence[TightnessRow]) -> list[TightnessRow]:
    """The rows that have ratios: classified rightly, with a radius."""
    return [row for row in rows if row.prediction == row.label and 0 < row.certified_radius < math.inf]


def broken_chain(rows: Sequence[TightnessRow]) -> list[tuple[TightnessRow, str]]:
    """Each row whose certified radius is above its estimate by gradients, or not below its attack's distance; and the
    column. Must be empty: a sound bound is at least as steep as any gradient."""
    radii = [row for row in rows if row.certified_radius > 0]
    steep = [(r, "global_estimate") for r in radii if not r.certified_radius <= r.global_estimate * (1 + ROUNDING)]
    return steep + [(r, "attack_distance") for r in radii if not r.certified_radius < r.attack_distance]


def tightness(rows: Sequence[TightnessRow], layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The numbers of tightness.json that are queries on its rows: `medians` count misclassified images as 0, `ratios`
    are medians over the images that have them, `layers` is each layer's bounds. Null is no number, or infinity."""
    alike = compared(rows)
    return {
        "images": len(rows),
        "compared": len(alike),
        "medians": {column: statistics.median(getattr(row, column) for row in rows) for column in COLUMNS},
        "ratios": {
            f"{ratio.above}/{ratio.below}": statistics.median(map(ratio.of, alike)) if alike else None
            for ratio in RATIOS
        },
        "layers": list(layers),
    }


def ratio_table(content: Mapping[str, Any]) -> Table:
    """The medians on the terminal; what is proved is rounded down."""
    table = _table("median", f"{content['images']:,} images")
    for column, value in content["medians"].items():
        table.add_row(_named(column, content), decimal(value, column == "certified_radius"))
    table.add_section()
    for ratio in RATIOS:
        table.add_row(str(ratio), decimal(content["ratios"][f"{ratio.above}/{ratio.below}"]))
    return table


def layer_table(layers: Sequence[Mapping[str, Any]]) -> Table:
    """Each layer's proved norm, what other bounds are of it, and what the proved norms join to so far."""
    table = _table("layer", "proved norm", *(f"{name} / proved" for name in BOUNDS.values()), "up to here, proved")
    for row in layers:
        if row["layer"] == "network":
            table.add_section()
        others = [f"{over(row, name):.4g}" for name in BOUNDS]
        table.add_row(row["layer"], f"{row['proved']:.6g}", *others, f"{row['upto']:.6g}")
    return table


def over(row: Mapping[str, Any], name: str) -> float:
    """How many times the proved norm another bound is; 1 for a layer that is 0."""
    return row[name] / row["proved"] if row["proved"] else 1.0


def _named(column: str, content: Mapping[str, Any]) -> str:
    name = column.replace("_", " ")
    return f"{name}, {content['attack']}" if column == "attack_distance" else name


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", overflow="fold")
    return table
