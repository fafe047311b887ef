"""The tables of `analysis=tightness` on the terminal; what is proved is rounded down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lipcert.analyses.tightness.rows import BATCH_RATIOS, BOUNDS, RATIOS, over
from lipcert.reporting.rounding import decimal, percent

if TYPE_CHECKING:
    from rich.table import Table


def ratio_table(content: Mapping[str, Any]) -> Table:
    """The medians on the terminal; what is proved is rounded down."""
    table = _table("median", f"{content['images']:,} images")
    for column, value in content["medians"].items():
        table.add_row(_named(column, content), decimal(value, column == "certified_radius"))
    table.add_section()
    for ratio in RATIOS + BATCH_RATIOS:
        if (key := f"{ratio.above}/{ratio.below}") in content["ratios"]:
            table.add_row(str(ratio), decimal(content["ratios"][key]))
    if said := content.get("equivalents"):
        table.add_section()
        table.add_row("the median certified radius in l∞", decimal(said["linf"], True))
        table.add_row("values that may each change by 1/255 within it", f"{said['values_by_one']:,}")
        table.add_row("pixels that may change in any way within it", f"{said['whole_pixels']:,}")
        table.add_row("images that keep their label whatever one pixel becomes, %", percent(said["any_pixel"], True))
    return table


def layer_table(layers: Sequence[Mapping[str, Any]]) -> Table:
    """Each layer's proved norm, what other bounds are of it, and what the proved norms join to so far."""
    table = _table("layer", "proved norm", *(f"{name} / proved" for name in BOUNDS.values()), "up to here, proved")
    for row in layers:
        if row["layer"] == "network":
            table.add_section()
        table.add_row(row["layer"], f"{row['proved']:.6g}", *_multiples(row), f"{row['upto']:.6g}")
    return table


def pool_table(pools: Sequence[Mapping[str, Any]]) -> Table:
    """Pooling of the input: its proved norm, what other bounds are of it, and what is reached, which is no bound."""
    table = _table("pooling of the input", "proved norm", *(f"{name} / proved" for name in BOUNDS.values()), "reached")
    for row in pools:
        table.add_row(row["layer"], f"{row['proved']:.6g}", *_multiples(row), f"{row['reached']:.6g}")
    return table


def _multiples(row: Mapping[str, Any]) -> list[str]:
    """Every other bound of a layer over the proved one."""
    return [f"{over(row, name):.4g}" for name in BOUNDS]


def _named(column: str, content: Mapping[str, Any]) -> str:
    name = column.replace("_", " ")
    if column == "attack_distance":
        return f"{name}, {content['attack']}"
    return f"{name}, steepest of {content['batch_size']} images: no bound" if column == "batch_estimate" else name


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", overflow="fold")
    return table
