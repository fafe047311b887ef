"""What all figures share: axes, colours and legends. They are made without pyplot, so there is no global state."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lipcert.contracts import Kind, Norm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f3c8d", "#555555", "#80ba5a")
DASHES = ((0, (5, 2)), (0, (5, 2, 1, 2)), (0, (9, 2)), (0, (3, 1, 1, 1, 1, 1)))
NORMS = {Norm.L1: "l1", Norm.L2: "l2", Norm.LINF: "l∞"}
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


def new_panels(count: int) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7 * count, 4.5), dpi=150, layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def distinct_colours(n: int) -> list[Any]:
    """n different ones: those that the colour-blind tell apart as far as they go, else spread over the rainbow."""
    from matplotlib import colormaps

    return list(COLOURS[:n]) if n <= len(COLOURS) else [colormaps["turbo"](i) for i in np.linspace(0.05, 0.95, n)]


def style_of(kind: Kind | None) -> str:
    return "--" if kind is None else "-" if kind is Kind.PROOF else ":"


def draw(axes: Axes, curve: Curve, colour: str, style: Any) -> None:
    look: dict[str, Any] = {"color": colour, "linestyle": style, "label": curve.label}
    if curve.steps is None:
        axes.plot(curve.x, curve.y, marker="o", markersize=4.5, linewidth=0.8, zorder=3, **look)
        return
    # The last value holds beyond the last step: 0 for radii, the images that no distance was found for under an attack.
    x, y = np.append(np.minimum(curve.x, 1e9), 1e9), np.append(curve.y, curve.y[-1])
    axes.step(x, y, where=curve.steps, linewidth=1.4 if curve.kind is None else 2.0, **look)


def finish(axes: Axes, series: Sequence[Curve], title: str, norm: str) -> None:
    end = 1.1 * max((_end(curve) for curve in series), default=0.0)
    frame(axes, end, f"{NORMS[Norm(norm)]} radius (pixels in [0, 1])", "fraction of test images", title)


def frame(axes: Axes, end: float, x: str, y: str, title: str) -> None:
    """Of fractions over 0 to `end`; x and y say what they are."""
    axes.set_xlim(0, end or 1.0)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(plain(title), fontsize="medium")
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _end(curve: Curve) -> float:
    """The radius from which on the curve is as good as 0, or its last one."""
    gone = curve.x[curve.y <= _NEGLIGIBLE] if curve.steps else curve.x[:0]
    finite = curve.x[np.isfinite(curve.x)]
    return float(min(gone.min(initial=np.inf), finite.max(initial=0.0)))


def legend_below(figure: Figure, handles: list[Any]) -> None:
    """Below the plots, where it hides no curve; the figure grows with it."""
    for handle in handles:
        handle.set_label(fill(plain(handle.get_label()), 90))
    labels = [handle.get_label() for handle in handles]
    columns = 2 if max(map(len, labels)) <= 45 else 1
    lines = sum(label.count("\n") + 1 for label in labels) / columns
    figure.set_figheight(4.5 + 0.2 * max(0.0, lines - 4))
    figure.legend(handles=handles, loc="outside lower center", fontsize="small", ncols=columns, frameon=False)


def plain(text: str) -> str:
    """A name that somebody gave, as a title or a label: matplotlib takes $ for mathematics, and leaves out _names."""
    text = "".join(c if c.isprintable() else "?" for c in text).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def drawn(figure: Figure, name: str) -> dict[str, bytes]:
    """A figure as the content of two files, NAME.png and NAME.svg; the same figure gives the same bytes.

    Text stays text in the SVG, which can be searched and edited.
    """
    from matplotlib import rc_context

    files = {}
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # in names that are not Latin
        for form, metadata in (("png", {}), ("svg", {"Date": None})):
            content = io.BytesIO()
            figure.savefig(content, format=form, metadata=metadata)
            files[f"{name}.{form}"] = content.getvalue()
            figure.set_layout_engine("none")  # both have the layout of the first
    return files


def channels_last(image: Any) -> np.ndarray:
    return np.asarray(image).transpose(1, 2, 0)


def picture(axes: Axes, image: np.ndarray, title: str, scale: float | None = None) -> None:
    """An image in [0, 1], or a difference in ±scale."""
    if image.shape[2] == 1:
        low, high, colours = (0.0, 1.0, "gray") if scale is None else (-scale, scale, "RdBu_r")
        axes.imshow(image[:, :, 0], vmin=low, vmax=high, cmap=colours)
    else:
        axes.imshow(image if scale is None else 0.5 + image / (2 * scale or 1.0))
    axes.set_title(title, fontsize="small")
    axes.set_xticks([])
    axes.set_yticks([])
