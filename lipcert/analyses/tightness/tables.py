"""The tables of `analysis=tightness` on the terminal; what is proved is rounded down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lipcert.analyses.tightness.rows import BOUNDS, RATIOS, over
from lipcert.reporting.rounding import decimal

if TYPE_CHECKING:
    from rich.table import Table


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
