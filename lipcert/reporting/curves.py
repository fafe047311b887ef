"""Accuracy against the radius, as figures: what is proved, and what attacks leave of it.

Each curve is the exact step function of its rows. A radius is closed: an image is certified up to and including it, and
lost from the distance on at which an attack beat it. Figures are made without pyplot, so there is no global state.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lipcert.contracts import AttackRow, CertificateRow, Kind, Norm
from lipcert.reporting import numbers
from lipcert.reporting.files import write_atomic
from lipcert.reporting.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f3c8d", "#555555", "#80ba5a")
_DASHES = ((0, (5, 2)), (0, (5, 2, 1, 2)), (0, (9, 2)), (0, (3, 1, 1, 1, 1, 1)))
_NAMES = {Norm.L2: "l2", Norm.LINF: "l∞"}
_NEGLIGIBLE = 0.005  # of the images: a curve's last outliers don't set the scale


@dataclass(frozen=True)
class Curve:
    """Fractions `y` at the radii `x`: constant up to each x ("pre"), from each x on ("post"), or known there (None).

    `kind` is that of the claim, None for what an attack left.
    """

    label: str
    x: np.ndarray
    y: np.ndarray
    steps: Literal["pre", "post"] | None
    kind: Kind | None


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

    figure, (axes,) = _figure(1)
    for curve, colour in zip(series, _colours(len(series)), strict=True):
        _draw(axes, curve, colour, _style(curve.kind))
        if curve.kind is not None:
            clean = f"clean accuracy {numbers.percent(float(curve.y[0]))} %"
            axes.plot(0, curve.y[0], "o", color=colour, clip_on=False, zorder=4, label=clean)
    _finish(axes, series, title, norm)
    handles = axes.get_legend_handles_labels()[0]
    if note:
        handles.append(Line2D([], [], linestyle="none", label=note))
    _legend(figure, handles)
    return figure


def overlay_figure(runs: Sequence[Run], names: Sequence[str] | None = None, title: str = "") -> Figure:
    """All runs in one: a colour for each of `names` (one a run, equal for runs that differ by seed), solid what is
    certified, dotted what is only estimated, dashed what an attack leaves. A plot for each norm certified in."""
    from matplotlib.lines import Line2D

    names = list(names) if names is not None else [str(run.path) for run in runs]
    different = list(dict.fromkeys(names))
    colours = dict(zip(different, _colours(len(different)), strict=True))
    norms = list(dict.fromkeys(run.norm for run in runs))
    figure, panels = _figure(len(norms))
    drawn: dict[str, Any] = {}  # label: line style
    for norm, axes in zip(norms, panels, strict=True):
        here = []
        for run, name in zip(runs, names, strict=True):
            if run.norm == norm:
                here += [(curve, colours[name]) for curve in curves(run.certificate_rows, run.attack_rows, norm)]
        for curve, colour in here:
            attacks = sum(isinstance(style, tuple) for style in drawn.values())
            style = _style(curve.kind) if curve.kind is not None else _DASHES[attacks % len(_DASHES)]
            _draw(axes, curve, colour, drawn.setdefault(curve.label, style))
        _finish(axes, [curve for curve, _ in here], title, norm)
    handles = [Line2D([], [], color=colour, linewidth=2.5, label=name) for name, colour in colours.items()]
    handles += [Line2D([], [], color="0.35", linestyle=style, label=label) for label, style in drawn.items()]
    _legend(figure, handles)
    return figure


def save_png(figure: Figure, path: str | Path) -> None:
    """Replaces `path` by the figure, in one step."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomic(path, buffer.getvalue())


def _figure(panels: int) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7 * panels, 4.5), dpi=150, layout="constrained")
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def _colours(n: int) -> list[Any]:
    """n different ones: those that the colour-blind tell apart as far as they go, else spread over the rainbow."""
    from matplotlib import colormaps

    return list(_COLOURS[:n]) if n <= len(_COLOURS) else [colormaps["turbo"](i) for i in np.linspace(0.05, 0.95, n)]


def _style(kind: Kind | None) -> str:
    return "--" if kind is None else "-" if kind is Kind.PROOF else ":"


def _draw(axes: Axes, curve: Curve, colour: str, style: Any) -> None:
    look: dict[str, Any] = {"color": colour, "linestyle": style, "label": curve.label}
    if curve.steps is None:
        axes.plot(curve.x, curve.y, marker="o", markersize=4.5, linewidth=0.8, zorder=3, **look)
        return
    # The last value holds beyond the last step: 0 for radii, the images that no distance was found for under an attack.
    x, y = np.append(np.minimum(curve.x, 1e9), 1e9), np.append(curve.y, curve.y[-1])
    axes.step(x, y, where=curve.steps, linewidth=1.4 if curve.kind is None else 2.0, **look)


def _finish(axes: Axes, series: Sequence[Curve], title: str, norm: str) -> None:
    end = 1.1 * max((_end(curve) for curve in series), default=0.0)
    _frame(axes, end, f"{_NAMES[Norm(norm)]} radius (pixels in [0, 1])", "fraction of test images", title)


def _frame(axes: Axes, end: float, x: str, y: str, title: str) -> None:
    """Of fractions over 0 to `end`; x and y say what they are."""
    axes.set_xlim(0, end or 1.0)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, fontsize="medium")
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _end(curve: Curve) -> float:
    """The radius from which on the curve is as good as 0, or its last one."""
    gone = curve.x[curve.y <= _NEGLIGIBLE] if curve.steps else curve.x[:0]
    finite = curve.x[np.isfinite(curve.x)]
    return float(min(gone.min(initial=np.inf), finite.max(initial=0.0)))


def _legend(figure: Figure, handles: list[Any]) -> None:
    """Below the plots, where it hides no curve; the figure grows with it."""
    for handle in handles:
        handle.set_label(fill(handle.get_label(), 90))
    labels = [handle.get_label() for handle in handles]
    columns = 2 if max(map(len, labels)) <= 45 else 1
    lines = sum(label.count("\n") + 1 for label in labels) / columns
    figure.set_figheight(4.5 + 0.2 * max(0.0, lines - 4))
    figure.legend(handles=handles, loc="outside lower center", fontsize="small", ncols=columns, frameon=False)
