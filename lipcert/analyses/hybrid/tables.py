"""The table of `analysis=hybrid` on the terminal; what is proved is rounded down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lipcert.reporting.rounding import decimal, percent

if TYPE_CHECKING:
    from rich.table import Table


def hybrid_table(content: Mapping[str, Any]) -> Table:
    """A row for each of the thresholds of hybrid.json, from A alone to B alone; last the one that was asked for."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    eps = list(content["thresholds"][0]["certified_accuracy"])
    attacks = [(name, e, value) for name, at in content.get("robust_accuracy", {}).items() for e, value in at.items()]
    table = Table(
        box=box.SIMPLE_HEAD, caption=escape(f"delegated to {content['other']} where the gap is smaller, in %")
    )
    headings = ["threshold", "delegated", "clean", *(f"certified {content['norm']} {e}" for e in eps)]
    for heading in [*headings, *(f"{name} {e}" for name, e, _ in attacks)]:
        table.add_column(heading, justify="right")
    for each in content["thresholds"]:
        table.add_row(*_cells(each))
    if "threshold" in content:
        table.add_section()
        table.add_row(*_cells(content), *(percent(value) for _, _, value in attacks))
    return table


def _cells(each: Mapping[str, Any]) -> list[str]:
    threshold = "none" if each["threshold"] is None else decimal(each["threshold"])  # JSON has no infinity
    proved = [percent(value, True) for value in each["certified_accuracy"].values()]
    return [threshold, percent(each["delegated"]), percent(each["clean_accuracy"]), *proved]
