"""Accuracy against the radius, as figures: what is proved, and what attacks leave of it.

Each curve is the exact step function of its rows. A radius is closed: an image is certified up to and including it, and
lost from the distance on at which an attack beat it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lipcert.contracts import AttackRow, CertificateRow, Norm
from lipcert.reporting.plotting import DASHES, Curve, distinct_colours, draw, finish, legend_below, new_panels, style_of
from lipcert.reporting.rounding import percent
from lipcert.runs import numbers
from lipcert.runs.find import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def certified_curve(rows: Sequence[CertificateRow]) -> Curve:
    """`accuracy_within` as a function of the radius, named by the kind of claim."""
    kind = numbers.kind_of(rows)
    radii = np.sort([row.radius for row in rows if row.prediction == row.label])
    x = np.concatenate([[0.0], radii, radii[-1:]])
    y = np.concatenate([[len(radii)], np.arange(len(radii), 0, -1), [0] * min(len(radii), 1)]) / len(rows)
    return Curve(f"{numbers.WORDS[kind]} ({len(rows):,} images)", x, y, "pre", kind)


def attacked_curve(rows: Sequence[AttackRow], attack: str) -> Curve:
    """`robust_accuracy` as a function of the radius: exact for smallest distances, else at 0 and the radii tried."""
    tried = dict(numbers.attacks(rows))[attack]
    label = f"{attack} ({numbers.attacked_count(rows, attack):,} images)"
    if tried:
        clean = np.mean([row.distance > 0 for row in numbers.attack_rows_at(rows, attack, tried[0])])
        y = np.array([clean, *(numbers.robust_accuracy(rows, attack, eps) for eps in tried)])
        return Curve(label, np.array([0.0, *tried]), y, None, None)
    mine = numbers.attack_rows_at(rows, attack, 0.0)
    standing = [row for row in mine if not numbers.beaten(row, 0.0)]
    lost = sorted(row.distance for row in standing if numbers.beaten(row, np.inf))
    return Curve(label, np.array([0.0, *lost]), (len(standing) - np.arange(len(lost) + 1)) / len(mine), "post", None)


def curves(certificate_rows: Sequence[CertificateRow], attack_rows: Sequence[AttackRow], norm: str) -> list[Curve]:
    """The certified curve, then one for each attack in the same norm."""
    labels = [label for label, _ in numbers.attacks(attack_rows) if numbers.attack_norm(label) == norm]
    return [certified_curve(certificate_rows), *(attacked_curve(attack_rows, label) for label in labels)]


def run_figure(
    certificate_rows: Sequence[CertificateRow], attack_rows: Sequence[AttackRow], norm: str, title: str
) -> Figure:
    """The curves of one run. Attacks in another norm than its certificate's can't share its axis: they are named."""
    others = [label for label, _ in numbers.attacks(attack_rows) if numbers.attack_norm(label) != norm]
    note = f"in another norm: {', '.join(others)}" if others else ""
    return curves_figure(curves(certificate_rows, attack_rows, norm), title, norm, note)


def curves_figure(series: Sequence[Curve], title: str, norm: str = Norm.L2, note: str = "") -> Figure:
    """One plot of `series`, whose radii are all in `norm`; `note` goes below the legend's entries."""
    from matplotlib.lines import Line2D

    figure, (axes,) = new_panels(1)
    for curve, colour in zip(series, distinct_colours(len(series)), strict=True):
        draw(axes, curve, colour, style_of(curve.kind))
        if curve.kind is not None:
            clean = f"clean accuracy {percent(float(curve.y[0]))} %"
            axes.plot(0, curve.y[0], "o", color=colour, clip_on=False, zorder=4, label=clean)
    finish(axes, series, title, norm)
    handles = axes.get_legend_handles_labels()[0]
    if note:
        handles.append(Line2D([], [], linestyle="none", label=note))
    legend_below(figure, handles)
    return figure


def overlay_figure(runs: Sequence[Run], names: Sequence[str] | None = None, title: str = "") -> Figure:
    """All runs in one: a colour for each of `names` (one a run, equal for runs that differ by seed), solid what is
    certified, dotted what is only estimated, dashed what an attack leaves. A plot for each norm certified in."""
    from matplotlib.lines import Line2D

    names = list(names) if names is not None else [str(run.path) for run in runs]
    different = list(dict.fromkeys(names))
    colours = dict(zip(different, distinct_colours(len(different)), strict=True))
    norms = list(dict.fromkeys(run.norm for run in runs))
    figure, panels = new_panels(len(norms))
    drawn: dict[str, Any] = {}  # label: line style
    for norm, axes in zip(norms, panels, strict=True):
        here = []
        for run, name in zip(runs, names, strict=True):
            if run.norm == norm:
                here += [(curve, colours[name]) for curve in curves(run.certificate_rows, run.attack_rows, norm)]
        for curve, colour in here:
            attacks = sum(isinstance(style, tuple) for style in drawn.values())
            style = style_of(curve.kind) if curve.kind is not None else DASHES[attacks % len(DASHES)]
            draw(axes, curve, colour, drawn.setdefault(curve.label, style))
        finish(axes, [curve for curve, _ in here], title, norm)
    handles = [Line2D([], [], color=colour, linewidth=2.5, label=name) for name, colour in colours.items()]
    handles += [Line2D([], [], color="0.35", linestyle=style, label=label) for label, style in drawn.items()]
    legend_below(figure, handles)
    return figure
