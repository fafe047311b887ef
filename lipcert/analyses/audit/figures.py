"""The figure of an audit: radii against the best distances, and the ratios of the two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lipcert.analyses.audit.rows import AuditRow
from lipcert.contracts import Norm
from lipcert.reporting.plotting import COLOURS, NORMS, new_panels, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDEST = 5.0  # ratios beyond are left out of the plot


def audit_figure(rows: Sequence[AuditRow], title: str) -> Figure:
    """Left, each image: a point below the line would break its certificate. Right: the fraction of images of which a
    radius too large by a factor would have been noticed."""
    figure, (points, curve) = new_panels(2)
    norm = NORMS.get(Norm(rows[0].norm), rows[0].norm)
    radius = np.array([row.radius for row in rows])
    distance = np.array([row.distance for row in rows])
    known = np.isfinite(distance)
    points.plot(radius[known], distance[known], ".", markersize=3, color=COLOURS[0], label="nearest other label found")
    end = 1.05 * float(radius.max())
    points.plot([0, end], [0, end], color="0.3", linewidth=1.2, label="distance = radius: broken below")
    points.set_xlim(0, end)
    points.set_ylim(0, 1.05 * float(max(distance[known].max(initial=0.0), end)))
    points.set_xlabel(f"certified {norm} radius (pixels in [0, 1])")
    points.set_ylabel(f"{norm} distance found")
    ratio = np.sort(distance / radius)
    shown = np.append(np.append(1.0, ratio[ratio <= WIDEST]), WIDEST)
    counted = np.searchsorted(ratio, shown, side="right") / len(rows)
    curve.step(shown, counted, where="post", color=COLOURS[0], linewidth=2, label="float64")
    single = np.sort([row.distance_float32 / row.radius_float32 for row in rows if row.radius_float32])
    if len(single):
        shown = np.append(np.append(1.0, single[single <= WIDEST]), WIDEST)
        counted = np.searchsorted(single, shown, side="right") / len(rows)
        curve.step(shown, counted, where="post", color=COLOURS[1], linewidth=1.2, linestyle="--", label="float32")
    curve.set_xlim(1, min(WIDEST, 1.1 * max(float(np.quantile(np.minimum(ratio, WIDEST), 0.98)), 1.1)))
    curve.set_ylim(0, 1.02)
    curve.set_xlabel("factor by which a radius is too large")
    curve.set_ylabel("fraction of images where it would be noticed")
    for axes in (points, curve):
        axes.grid(color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize="small", frameon=False)
    figure.suptitle(plain(f"{title}: the audit of {len(rows):,} certified radii"), fontsize="medium")
    return figure
