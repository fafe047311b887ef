"""The figures of a page, as wide as a phone. Proofs are solid, other claims dotted, what attacks leave is dashed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np

from lipcert.analyses.tightness.rows import RATIOS, compared
from lipcert.contracts import Kind, StabilityRow
from lipcert.report.deciles import Decile
from lipcert.report.record import Record, reach, together
from lipcert.report.svg import HEIGHT, WIDTH
from lipcert.reporting.curves import attacked_curve, certified_curve
from lipcert.reporting.plotting import (
    COLOURS,
    DASHES,
    NORMS,
    Curve,
    draw,
    finish,
    frame,
    legend_below,
    new_panels,
    plain,
    style_of,
)
from lipcert.runs import numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LAYERS = 40  # bars of a figure


def accuracy_figure(record: Record, norm: str) -> Figure:
    """The claims and the attacks of a run in one norm, against the radius; shaded between what is proved and what all
    attacks together leave, on the same images."""
    figure, axes = _panel()
    claims = {kind: rows for kind, rows in record.claims.items() if rows[0].norm == norm}
    reached = {label: found for label, found in reach(record, NORM[norm]).items() if found}
    all_of_them = together(reached)
    series: list[tuple[Curve, str, Any]] = []
    for number, rows in enumerate(claims.values()):
        curve = certified_curve(rows)
        series.append((curve, COLOURS[number], style_of(curve.kind)))
    curves = [left_curve(label, found, record) for label, found in reached.items()]
    if Kind.PROOF in claims and all_of_them:
        proof = [row for row in claims[Kind.PROOF] if row.index in all_of_them]
        if len(proof) < len(claims[Kind.PROOF]):
            label = f"certified, of the {len(proof):,} attacked images"
            series.append((replace(certified_curve(proof), label=label), COLOURS[7], "-"))
        shade(axes, certified_curve(proof), _left("", all_of_them))
    for number, curve in enumerate(curves):
        series.append((curve, COLOURS[(number + 1) % len(COLOURS)], DASHES[number % len(DASHES)]))
    for curve, colour, style in series:
        draw(axes, curve, colour, style)
    finish(axes, [curve for curve, _, _ in series], "", norm)
    legend_below(figure, axes.get_legend_handles_labels()[0])
    return figure


NORM = {str(norm): norm for norm in NORMS}


def left_curve(label: str, distances: Mapping[int, float], record: Record) -> Curve:
    """What one attack leaves: exact where it looks for smallest distances, else at the radii that were tried."""
    tried = dict(numbers.attacks(record.run.attack_rows)).get(label)
    return attacked_curve(record.run.attack_rows, label) if tried else _left(label, distances)


def _left(label: str, distances: Mapping[int, float]) -> Curve:
    standing = np.array([at for at in distances.values() if at > 0])
    lost = np.sort(standing[np.isfinite(standing)])
    y = (len(standing) - np.arange(len(lost) + 1)) / len(distances)
    return Curve(f"{label} ({len(distances):,} images)", np.append(0.0, lost), y, "post", None)


def shade(axes: Axes, proof: Curve, left: Curve) -> None:
    """Between what is proved and what attacks leave of the same images."""
    x = np.unique(np.concatenate([proof.x, left.x, [10 * max(proof.x.max(), left.x.max(), 1.0)]]))
    x = x[np.isfinite(x)]
    lower = np.append(proof.y, 0.0)[np.searchsorted(proof.x, x, side="right")]
    upper = left.y[np.searchsorted(left.x, x, side="right") - 1]
    axes.fill_between(
        x, lower, np.maximum(lower, upper), step="post", color=COLOURS[4], alpha=0.28, linewidth=0,
        label="neither proved nor refuted",
    )  # fmt: skip


def decile_figure(parts: Sequence[Decile], eps: float | None, word: str, kind: Kind, norm: str) -> Figure:
    """Accuracy, the claim at eps and what attacks leave at eps, by decile of the gap."""
    figure, axes = _panel()
    x = np.arange(1, len(parts) + 1)
    axes.plot(x, [part.accuracy for part in parts], "o-", color=COLOURS[7], markersize=4, label="clean accuracy")
    if eps is not None:
        at = f"at {NORMS[NORM[norm]]} radius {eps:g}"
        y = [part.within[eps] for part in parts]
        axes.plot(x, y, "s", linestyle=style_of(kind), color=COLOURS[0], markersize=5, label=f"{word} accuracy {at}")
        left = [(i, part.left[eps]) for i, part in zip(x, parts, strict=True) if part.left]
        if left:
            label = f"attacked accuracy {at}, images that were attacked"
            axes.plot(*zip(*left, strict=True), "^--", color=COLOURS[1], markersize=5, label=label)
    frame(axes, len(parts) + 0.5, "decile of the gap: 1 has the smallest gaps", "fraction of the images in it", "")
    axes.set_xlim(0.5, len(parts) + 0.5)
    axes.set_xticks(x)
    legend_below(figure, axes.get_legend_handles_labels()[0])
    return figure


def layer_figure(layers: Sequence[Mapping[str, Any]]) -> Figure:
    """The bound up to each layer: a bar from the one before it to its own."""
    known = [row for row in layers if (row.get("lipschitz") or 0.0) > 0]
    before = [1.0, *(float(row["lipschitz"]) for row in known[:-1])]
    bars = list(zip(known, before, strict=True))
    if len(bars) > MOST_LAYERS:
        kept = sorted(bars, key=lambda bar: -abs(np.log(float(bar[0]["lipschitz"]) / bar[1])))[:MOST_LAYERS]
        bars = [bar for bar in bars if any(bar is other for other in kept)]
    figure, axes = _panel(max(1.8, 0.8 + 0.22 * len(bars)))
    for place, (row, start) in enumerate(bars):
        end = float(row["lipschitz"])
        axes.barh(place, end - start, left=start, height=0.62, color=COLOURS[1 if end > start else 2])
        axes.plot([end, end], [place - 0.36, place + 0.36], color="black", linewidth=1.6)
    values = [1.0, *before, *(float(row["lipschitz"]) for row, _ in bars)]
    low, high = min(values), max(values)
    axes.set_xscale("log")
    margin = max((high / low) ** 0.08, 1.12)
    axes.set_xlim(low / margin, high * margin)
    axes.axvline(1, color="0.4", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(bars)), [plain(shorten(row["layer"], 26, placeholder="…")) for row, _ in bars])
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_major_locator(_few(low / margin, high * margin))
    axes.xaxis.set_minor_locator(_few(1.0, 1.0))
    axes.set_xlabel("Lipschitz bound up to this layer (logarithmic)")
    _dress(axes)
    return figure


def _few(low: float, high: float) -> Any:
    """Round numbers between low and high, evenly spread on a logarithmic axis where it is long."""
    from matplotlib.ticker import FixedLocator, MaxNLocator

    steps = (1, 2, 5) if high / low < 1e3 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    spread = [step * 10.0**power for power in powers for step in steps][:: 1 if len(powers) < 9 else len(powers) // 6]
    ticks = spread if high / low > 6 else MaxNLocator(5).tick_values(low, high)
    return FixedLocator([tick for tick in ticks if low < tick < high])


def ratio_figure(record: Record) -> Figure:
    """The error ratios of the tightness analysis: the fraction of images whose ratio is at most x."""
    figure, axes = _panel()
    alike, widest = compared(record.tightness), 2.0
    for ratio, colour in zip(RATIOS, COLOURS, strict=False):
        values = np.sort([ratio.of(row) for row in alike])
        if len(values):
            label = f"{ratio}, median {np.median(values):.3g}"
            curve = Curve(label, np.append(0.0, values), np.arange(len(values) + 1) / len(values), "post", None)
            draw(axes, curve, colour, "-" if ratio.number else "--")
            widest = max(widest, float(np.quantile(np.where(np.isfinite(values), values, 1.0), 0.98)))
    frame(axes, widest, "ratio", "fraction of images with at most this ratio", "")
    axes.set_xlim(0.7, widest)
    legend_below(figure, axes.get_legend_handles_labels()[0])
    return figure


def stability_figure(rows: Sequence[StabilityRow]) -> Figure:
    """How steep the network is at the test images: the fraction of images with at most this norm."""
    figure, axes = _panel()
    end = 0.0
    for (column, name), colour in zip(numbers.MAXIMA.values(), COLOURS, strict=False):
        values = np.sort([getattr(row, column) for row in rows])
        label = {"loss_gradient": "gradient of the loss", "jacobian": "Jacobian of the logits"}.get(column, name)
        curve = Curve(label, np.append(0.0, values), np.arange(len(values) + 1) / len(values), "post", None)
        draw(axes, curve, colour, "-")
        end = max(end, float(values[-1]))
    frame(axes, 1.05 * end, "l2 norm, per pixel of [0, 1]", "fraction of test images", "")
    legend_below(figure, axes.get_legend_handles_labels()[0])
    return figure


def _panel(height: float = HEIGHT) -> tuple[Figure, Axes]:
    figure, (axes,) = new_panels(1)
    figure.set_size_inches(WIDTH, height)
    return figure, axes


def _dress(axes: Axes) -> None:
    axes.grid(color="0.9", linewidth=0.8, which="both", axis="x")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
