"""The figure of `analysis=hybrid`: accuracies against the fraction of images that is delegated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lipcert.reporting.plotting import distinct_colours, frame, legend_below, new_panels, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def hybrid_figure(found: Sequence[Mapping[str, Any]], names: tuple[str, str], threshold: float | None = None) -> Figure:
    """What is right (dashed) and what is proved (solid) at every threshold.

    found      as `thresholds.at_all` gives it
    names      of A and B
    threshold  one that is marked
    """
    figure, (axes,) = new_panels(1)
    x = [each["delegated"] for each in found]
    radii = list(found[0]["certified_accuracy"])
    clean, *colours = distinct_colours(len(radii) + 1)
    axes.plot(x, [each["clean_accuracy"] for each in found], "--", color=clean, label="clean")
    for e, colour in zip(radii, colours, strict=True):
        axes.plot(x, [each["certified_accuracy"][e] for each in found], color=colour, label=f"certified {e}")
    if threshold is not None:
        at = next(each["delegated"] for each in found if each["threshold"] >= threshold)
        axes.axvline(at, color="0.4", linestyle=":", label=f"threshold {threshold:g}")
    title = f"{plain(names[0])}, and {plain(names[1])} where its gap is small"
    frame(axes, 1.0, "fraction of test images that is delegated", "fraction of test images", title)
    legend_below(figure, axes.get_legend_handles_labels()[0])
    return figure
