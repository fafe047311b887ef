"""The figures of the tightness analysis: error ratios, accuracies against the radius, bounds by layer, and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lipcert.analyses.tightness.rows import BOUNDS, RATIOS, Ratio, TightnessRow, compared, over, ratios_of
from lipcert.contracts import AttackRow, CertificateRow, Kind, Norm
from lipcert.reporting.curves import attacked_curve, certified_curve
from lipcert.reporting.plotting import COLOURS, Curve, channels_last, draw, finish, new_panels, picture, style_of
from lipcert.reporting.rounding import decimal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def tightness_figure(
    rows: Sequence[TightnessRow],
    layers: Sequence[Mapping[str, Any]],
    attack: str,
    title: str,
    pools: Sequence[Mapping[str, Any]] = (),
) -> Figure:
    """Plots of the error ratios of images, accuracies against the radius, other bounds over the proved ones, and, where
    there are `pools`, the bounds of pooling the input."""
    figure, (errors, accuracy, bounds, *pooling) = new_panels(4 if pools else 3)
    figure.set_size_inches(21 if pools else 17, 5.5)
    _ratios(errors, rows)
    series = radius_curves(rows, attack)
    for curve, colour in zip(series, COLOURS, strict=False):
        draw(accuracy, curve, colour, style_of(curve.kind))
    finish(accuracy, series, "accuracy against the radius", Norm.L2)
    _dress(accuracy)
    _bounds(bounds, layers)
    for axes in pooling:
        _pools(axes, pools)
    figure.suptitle(title)
    return figure


def radius_curves(rows: Sequence[TightnessRow], attack: str) -> list[Curve]:
    """(A) what is certified, (B) and (C) what gradients estimate, (D) what the attack leaves."""

    def radii(column: str, kind: Kind) -> Curve:
        of = [
            CertificateRow(r.split, r.index, Norm.L2, column, kind, r.label, r.prediction, r.margin, getattr(r, column))
            for r in rows
        ]
        return certified_curve(of)

    distances = [
        AttackRow(r.split, r.index, Norm.L2, attack, None, 0 < r.attack_distance < np.inf, r.attack_distance)
        for r in rows
    ]
    return [
        replace(radii("certified_radius", Kind.PROOF), label="(A) certified"),
        replace(radii("global_estimate", Kind.NOMINAL), label="(B) estimate: steepest gradient near any image"),
        replace(radii("local_estimate", Kind.NOMINAL), label="(C) estimate: steepest gradient near the image"),
        replace(attacked_curve(distances, attack), label=f"(D) {attack}"),
    ]


def _ratios(axes: Axes, rows: Sequence[TightnessRow]) -> None:
    """The fraction of images whose ratio is at most x."""
    alike = compared(rows)
    widest = 2.0
    for ratio, colour in zip(ratios_of(rows), COLOURS, strict=False):
        values = np.sort([ratio.of(row) for row in alike])
        if not len(values):
            continue
        y = np.arange(len(values) + 1) / len(values)
        look: dict[str, Any] = {"color": colour, "linestyle": _style(ratio)}
        axes.step(
            np.append(values[0], values), y, where="post", label=f"{ratio}, median {np.median(values):.3g}", **look
        )
        widest = max(widest, float(np.quantile(np.where(np.isfinite(values), values, 1.0), 0.98)))
    if widest > 10:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlim(0.7, widest)
    axes.set_ylim(0, 1.02)
    axes.axvline(1, color="0.6", linewidth=0.8)
    axes.set_xlabel("ratio")
    axes.set_ylabel("fraction of images with at most this ratio")
    axes.set_title(f"error ratios of {len(alike):,} images; an estimate is no bound", fontsize="medium")
    _dress(axes)


def _style(ratio: Ratio) -> str:
    """Of a ratio's line: those of a batch are dotted."""
    return ":" if ratio not in RATIOS else "-" if ratio.number else "--"


def _pools(axes: Axes, pools: Sequence[Mapping[str, Any]]) -> None:
    """Each bound of each kind of pooling, and what is reached."""
    shown = {"reached": "reached, no bound", "proved": "proved", **BOUNDS}
    width, places = 0.8 / len(shown), np.arange(len(pools))
    for i, ((name, label), colour) in enumerate(zip(shown.items(), ("0.75", "0.2", *COLOURS), strict=False)):
        axes.bar(places + (i - 2) * width, [row[name] for row in pools], width, color=colour, label=label)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xticks(places, [row["layer"] for row in pools])
    axes.set_ylabel("l2 norm")
    axes.set_title("pooling of the input", fontsize="medium")
    _dress(axes)


def _bounds(axes: Axes, layers: Sequence[Mapping[str, Any]]) -> None:
    """Each bound of each layer, as a multiple of the norm that is proved."""
    layers = [row for row in layers if row["layer"] != "network"]  # whose multiples would dwarf all others
    width = 0.8 / len(BOUNDS)
    places = np.arange(len(layers))
    for i, ((name, label), colour) in enumerate(zip(BOUNDS.items(), COLOURS, strict=False)):
        multiples = [over(row, name) for row in layers]
        axes.bar(places + (i - 1) * width, multiples, width, color=colour, label=label)
    axes.axhline(1, color="0.2", linewidth=1.2, label="proved")
    axes.set_yscale("log")
    axes.set_xticks(places, [row["layer"] for row in layers], rotation=40 if len(layers) < 12 else 90, ha="right")
    axes.tick_params(axis="x", labelsize="small" if len(layers) < 25 else 5)
    axes.set_ylabel("bound / proved norm")
    axes.set_title("other bounds, by layer", fontsize="medium")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylim(0.7, 3 * max((over(row, name) for row in layers for name in BOUNDS), default=1.0))
    _dress(axes, legend=(0, 1))


def picture_figure(kept: Sequence[Any]) -> Figure:
    """A column for each of `kept` (see `pictures`): the image, the changed one, and what was changed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.6 * len(kept) + 0.4, 9), dpi=150, layout="constrained")
    grid = figure.subplots(3, len(kept), squeeze=False)
    for axes, one in zip(grid.T, kept, strict=True):
        difference = channels_last(one.changed - one.image)
        picture(axes[0], channels_last(one.image), f"test image {one.number:,}: label {one.label}")
        picture(axes[1], channels_last(one.changed), f"proved to keep label {one.label}")
        picture(axes[2], difference, f"the difference, towards a {one.other}", float(np.abs(difference).max()))
        axes[2].set_xlabel(f"distance {one.distance:.4f}, certified {decimal(one.radius, True)}", fontsize="small")
    figure.suptitle("Visibly different, and proved to keep the label (l2)")
    return figure


def _dress(axes: Axes, legend: tuple[float, float] = (0, -0.15)) -> None:
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small", frameon=False, loc="upper left", bbox_to_anchor=legend)
