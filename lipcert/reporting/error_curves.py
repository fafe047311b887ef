"""Error curves: which fraction of the images an attack has found an adversarial image for within eps, by defence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lipcert.contracts import AttackRow, Norm
from lipcert.reporting.plotting import NORMS, Curve, distinct_colours, draw, frame, legend_below, new_panels
from lipcert.runs import numbers
from lipcert.runs.find import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 0.95  # of the distances found; the farthest images don't set the scale


def error_curve(rows: Sequence[Sequence[AttackRow]], attack: str, label: str = "") -> Curve:
    """P(distance ≤ eps) under an `attack` that looks for the smallest distance, over the rows of several runs together:
    one step a distance. Misclassified images have distance 0; what it failed on stays above the curve's end.
    """
    found = np.sort([distance for each in rows for distance in numbers.distances(each, attack)])
    finite = found[np.isfinite(found)]
    x = np.concatenate([[0.0], finite])
    return Curve(label or attack, x, np.searchsorted(found, x, side="right") / len(found), "post", None)


def errors_figure(groups: Sequence[Sequence[Run]], names: Sequence[str], beside: Curve | None = None) -> Figure | None:
    """All defences' error curves, a plot for each attack that looks for the smallest distance; of a single defence, all
    attacks in one plot a norm. Runs of one group are pooled. `beside` is drawn into those in l2: the data-stability
    curve. None where there is nothing to draw.
    """
    panels: dict[str, list[Curve]] = {}
    norms: dict[str, Norm] = {}
    for group, name in zip(groups, names, strict=True):
        for attack, tried in dict.fromkeys(found for run in group for found in numbers.attacks(run.attack_rows)):
            if tried:
                continue
            rows = [run.attack_rows for run in group if attack in dict(numbers.attacks(run.attack_rows))]
            norm = numbers.attack_norm(attack)
            title = attack if len(groups) > 1 else f"{name}: {norm}"
            panels.setdefault(title, []).append(error_curve(rows, attack, name if len(groups) > 1 else attack))
            norms[title] = norm
    if not panels:
        return None
    labels = list(dict.fromkeys(curve.label for curves in panels.values() for curve in curves))
    colours = dict(zip(labels, distinct_colours(len(labels)), strict=True))
    figure, axes = new_panels(len(panels))
    handles: dict[str, Any] = {}
    for plot, (title, curves) in zip(axes, panels.items(), strict=True):
        for curve in curves:
            draw(plot, curve, colours[curve.label], "-")
        end = max(float(np.quantile(curve.x, _SHOWN)) for curve in curves)
        if beside is not None and norms[title] is Norm.L2:
            draw(plot, beside, "0.4", ":")
        x = f"eps: {NORMS[norms[title]]} distance (pixels in [0, 1])"
        frame(plot, end, x, "fraction of test images misclassified within eps", title)
        found, names_ = plot.get_legend_handles_labels()
        handles |= dict(zip(names_, found, strict=True))
    legend_below(figure, list(handles.values()))
    return figure
