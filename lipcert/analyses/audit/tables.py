"""What an audit found, on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lipcert.reporting.rounding import count, factor, percent

if TYPE_CHECKING:
    from rich.table import Table


def audit_table(facts: Mapping[str, Any]) -> Table:
    """The numbers of audit.json."""
    table = _table()
    images = facts["images"]
    table.add_row("images with a certified radius, audited", count(images))
    table.add_row("pairs of an image and an attack", count(facts["pairs"]))
    table.add_row("broken certificates", count(facts["broken"]))
    table.add_row("images of which another label was found at all", count(facts["found"]))
    table.add_row("smallest distance / radius", factor(facts["smallest_noticed"]))
    table.add_row("... in float32", factor(facts["smallest_noticed_float32"]))
    table.add_row("median distance / radius", factor(facts["median_noticed"]))
    for key, found in facts["noticed"].items():
        table.add_row(f"images where a radius × {key} would have been noticed", f"{percent(found / images)} %")
    table.add_row("seconds", f"{facts['seconds']:.1f}")
    table.add_row("seconds of processors", f"{facts['cpu_seconds']:.1f}")
    return table


def attack_table(attacks: Mapping[str, Mapping[str, int]]) -> Table:
    """What each attack was given, and found."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("attack", overflow="fold")
    for heading in ("images tried", "other label found", "nearest one", "nearest one, float32"):
        table.add_column(heading, justify="right")
    for name, mine in attacks.items():
        table.add_row(name, *(count(mine[key]) for key in ("tried", "found", "nearest", "nearest_float32")))
    return table


def in_words(facts: Mapping[str, Any]) -> Iterator[str]:
    """What the numbers of audit.json mean."""
    if facts["broken"]:
        yield f"{facts['broken']:,} certificates are broken."
        return
    yield f"No image within a certified radius was given another label, by {facts['pairs']:,} attempts."
    smallest = facts["smallest_noticed"]
    if smallest is None:
        yield "The suite found another label of no image at any distance: it would have noticed no radius too large."
    else:
        yield (
            f"Radii too large by a factor of {factor(smallest)} would have been noticed: on one image at least, the "
            "suite found another label that near."
        )
    if facts["smallest_noticed_float32"] is not None:
        yield f"For radius_float32 that factor is {factor(facts['smallest_noticed_float32'])}."


def fixed_table(facts: Mapping[str, Any]) -> Table:
    """The numbers of audit_eps.json at one eps."""
    table = _table()
    where = f"{facts['norm']} {facts['eps']:g}"
    table.add_row("images attacked", count(facts["images"]))
    table.add_row("pairs of an image and an attack", count(facts["pairs"]))
    table.add_row("clean accuracy", f"{percent(facts['clean_accuracy'])} %")
    table.add_row(f"robust accuracy at {where} under the suite, in float64", f"{percent(facts['robust_accuracy'])} %")
    table.add_row("... in float32", f"{percent(facts['robust_accuracy_float32'])} %")
    table.add_row(
        "... under all attacks, those of the diagnosis too", f"{percent(facts['smallest_robust_accuracy'])} %"
    )
    table.add_row("seconds", f"{facts['seconds']:.1f}")
    return table


def _table() -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right")
    return table
