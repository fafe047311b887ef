"""What `lipcert separation` finds: a row for each training image, and the table on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lipcert.files import read_regular
from lipcert.runs.rows import parse_rows

if TYPE_CHECKING:
    from rich.table import Table

ROWS = "separation.csv"
LISTED = 5  # sets of duplicates that the terminal names


class SeparationRow(NamedTuple):
    """A training image, and the nearest one of another label in l2; distance 0 where both are the same image."""

    index: int  # type: ignore[assignment]
    label: int
    nearest: int
    distance: float


def read_separation(path: Path) -> list[SeparationRow]:
    """The rows of separation.csv, or of the directory that it lies in; ValueError where there are none."""
    file = path / ROWS if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"`separation`: {file} is not there; `lipcert separation dataset=NAME` writes it")
    return parse_rows(read_regular(file, 1 << 30), SeparationRow, str(file))


def separation_table(content: Mapping[str, Any]) -> Table:
    """The numbers on the terminal, and the first few sets of duplicates."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("data set", escape(f"{content['name']}, {content['images']:,} images, {content['labels']} labels"))
    table.add_row("Lipschitz constant of the labels, l2", f"{content['lipschitz']:.6g}")
    table.add_row("smallest distance between two labels", f"{content['distance']:.6g}")
    table.add_row("of the training images", _listed(**content["closest"]))
    table.add_row("median distance to another label", f"{content['median_distance']:.6g}")
    duplicates = content["duplicates"]
    table.add_row("images that recur under another label", f"{sum(len(group['indices']) for group in duplicates):,}")
    for group in duplicates[:LISTED]:
        table.add_row("  skipped, the same image", _listed(**group))
    if len(duplicates) > LISTED:
        table.add_row("  and more", f"{len(duplicates) - LISTED:,}")
    table.add_row("seconds", f"{content['seconds']:.1f}")
    return table


def _listed(indices: Sequence[int], labels: Sequence[int]) -> str:
    found = [f"{index} (label {label})" for index, label in zip(indices, labels, strict=True)]
    return ", ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")
