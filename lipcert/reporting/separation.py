"""How far the images of a data set lie from those of other labels: rows, their curve, the table and the pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lipcert.reporting.curves import _COLOURS, Curve, _draw, _figure, _frame, _legend
from lipcert.reporting.tightness_figures import _picture, _shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

LISTED = 5  # sets of duplicates that the terminal names


class SeparationRow(NamedTuple):
    """A training image, and the nearest one of another label in l2; distance 0 where both are the same image."""

    index: int  # type: ignore[assignment]
    label: int
    nearest: int
    distance: float


def stability_curve(rows: Sequence[SeparationRow]) -> Curve:
    """The data-stability curve: the fraction of images that have an image of another label within eps, rising from 0.

    It is about the data alone; error curves lie over it, accuracies over 1 − y. It is no bound on either."""
    if not rows:
        raise ValueError("there are no rows to count")
    x = np.concatenate([[0.0], np.sort([row.distance for row in rows])])
    return Curve(f"another label within eps ({len(rows):,} images)", x, np.arange(len(x)) / len(rows), "post", None)


def separation_figure(rows: Sequence[SeparationRow], distance: float, title: str) -> Figure:
    """The curve, and the smallest distance above 0."""
    curve = stability_curve(rows)
    figure, (axes,) = _figure(1)
    _draw(axes, curve, _COLOURS[0], "-")
    label = f"smallest distance {distance:.6g}, Lipschitz constant {1 / distance:.6g}"
    axes.axvline(distance, color="0.4", linestyle=":", label=label)
    end = 1.05 * float(curve.x[-1])
    _frame(axes, end, "eps: l2 distance (pixels in [0, 1])", "fraction of training images", title)
    _legend(figure, axes.get_legend_handles_labels()[0])
    return figure


def pair_figure(images: Sequence[np.ndarray], content: Mapping[str, Any]) -> Figure:
    """The closest two images of different labels, (C, H, W) in [0, 1], and their difference."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.2, 3.4), dpi=150, layout="constrained")
    *pair, last = figure.subplots(1, 3)
    first, second = (_shown(image) for image in images)
    closest = zip(content["closest"]["indices"], content["closest"]["labels"], strict=True)
    for axes, image, (index, label) in zip(pair, (first, second), closest, strict=True):
        _picture(axes, image, f"training image {index:,}: label {label}")
    _picture(last, second - first, "the difference", float(np.abs(second - first).max()))
    figure.suptitle(f"{content['name']}: the closest images of different labels, l2 distance {content['distance']:.6g}")
    return figure


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
