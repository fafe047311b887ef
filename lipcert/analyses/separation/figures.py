"""How far the images of a data set lie from those of other labels: rows, their curve, the table and the pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lipcert.analyses.separation.rows import SeparationRow
from lipcert.reporting.plotting import COLOURS, Curve, channels_last, draw, frame, legend_below, new_panels, picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    figure, (axes,) = new_panels(1)
    draw(axes, curve, COLOURS[0], "-")
    label = f"smallest distance {distance:.6g}, Lipschitz constant {1 / distance:.6g}"
    axes.axvline(distance, color="0.4", linestyle=":", label=label)
    end = 1.05 * float(curve.x[-1])
    frame(axes, end, "eps: l2 distance (pixels in [0, 1])", "fraction of training images", title)
    legend_below(figure, axes.get_legend_handles_labels()[0])
    return figure


def pair_figure(images: Sequence[np.ndarray], content: Mapping[str, Any]) -> Figure:
    """The closest two images of different labels, (C, H, W) in [0, 1], and their difference."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.2, 3.4), dpi=150, layout="constrained")
    *pair, last = figure.subplots(1, 3)
    first, second = (channels_last(image) for image in images)
    closest = zip(content["closest"]["indices"], content["closest"]["labels"], strict=True)
    for axes, image, (index, label) in zip(pair, (first, second), closest, strict=True):
        picture(axes, image, f"training image {index:,}: label {label}")
    picture(last, second - first, "the difference", float(np.abs(second - first).max()))
    figure.suptitle(f"{content['name']}: the closest images of different labels, l2 distance {content['distance']:.6g}")
    return figure
