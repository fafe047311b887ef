"""What one run's summary.json claims, for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lipcert.contracts import Kind
from lipcert.reporting.rounding import decimal, factor, percent
from lipcert.runs.numbers import MAXIMA, WORDS

if TYPE_CHECKING:
    from rich.table import Table


def run_table(summary: Mapping[str, Any], where: str | None = None) -> Table:
    """What a run's summary.json claims, for the terminal; `where` is the run's directory."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD, show_header=False, caption=escape(f"in {where}") if where else None, caption_justify="left"
    )
    table.add_column(overflow="fold")
    table.add_column(justify="right")
    for name, value in _lines(summary):
        table.add_row(escape(name), value)
    return table


def layer_table(summary: Mapping[str, Any]) -> Table | None:
    """The bound of a run's summary.json layer by layer, and what each layer costs it; None where it has no layers."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    if not summary["layers"]:
        return None
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("layer", overflow="fold")
    for heading in ("norm", "bound so far", "cost to the bound"):
        table.add_column(heading, justify="right")
    for row in summary["layers"]:
        numbers_ = (f"{row[key]:.6g}" if row.get(key) is not None else "" for key in ("norm", "lipschitz"))
        table.add_row(escape(row["layer"]), *numbers_, f"× {row['cost']:.4g}" if "cost" in row else "")
    return table


def _cost_of_float32(summary: Mapping[str, Any], left: float) -> Iterator[tuple[str, str]]:
    """What costs float32 most, where the mean radius loses more than a hundredth."""
    report = summary.get("float32") or {}
    if left < 0.99 and report:
        yield "... which loses most at", report.get("refused") or f"{report['layer']} ({percent(report['share'])} %)"


def _lines(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "kind" in summary:
        word, norm = WORDS[Kind(summary["kind"])], summary["norm"]
        claim = summary["kind"] == Kind.PROOF
        prefix = "" if claim else f"{word}_"
        yield f"clean accuracy, {summary['test_images']:,} images", f"{percent(summary['clean_accuracy'])} %"
        for eps, value in summary[f"{word}_accuracy"].items():
            yield f"{word} accuracy at {norm} {eps}", f"{percent(value, claim)} %"
        for eps, value in summary.get(f"{word}_accuracy_by_lipschitz", {}).items():
            yield f"... by the Lipschitz bound alone, at {eps}", f"{percent(value, claim)} %"
        for eps, value in summary.get(f"{word}_accuracy_float32", {}).items():
            yield f"... in float32, at {eps}", f"{percent(value, claim)} %"
        for radius in ("mean_radius", "median_radius"):
            yield f"{word} {radius.replace('_', ' ')}, {norm}", decimal(summary[prefix + radius], claim)
        if (single := summary.get("mean_radius_float32")) is not None:
            yield f"{word} mean radius in float32", decimal(single, claim)
            yield from _cost_of_float32(summary, single / summary["mean_radius"] if summary["mean_radius"] else 1.0)
    for attack, accuracies in summary["robust_accuracy"].items():
        images = summary["attacked_images"][attack]
        for eps, value in accuracies.items():
            yield f"robust accuracy at {eps}, {attack}, {images:,} images", f"{percent(value)} %"
    for attack, found in summary.get("broken_at_multiples", {}).items():
        for factor_, counts in found.items():
            at = "certified" if float(factor_) == 1 else f"{float(factor_):g} × certified"
            yield f"broken at {at}, {attack}", f"{counts['broken']:,} of {counts['images']:,}"
    if "mean_gap" in summary:
        yield "mean gap", decimal(summary["mean_gap"])
    for attack, distance in summary["median_distance"].items():
        yield f"median distance, {attack}, {summary['attacked_images'][attack]:,} images", decimal(distance)
    if audit := summary.get("audit"):
        yield f"audit: broken of {audit['images']:,} radii, {audit['pairs']:,} attempts", f"{audit['broken']:,}"
        yield "audit: a radius too large by this factor would have been noticed", factor(audit["smallest_noticed"])
    for key, (_, name) in MAXIMA.items():
        if key in summary:
            yield f"{name}, {summary['test_images']:,} images", decimal(summary[key])
    for key in ("lipschitz_bound", "enlargement"):
        if summary[key] is not None:
            yield key.replace("_", " ").replace("lipschitz", "Lipschitz"), f"{summary[key]:.6g}"
    verb = "certify" if summary.get("kind", Kind.PROOF) == Kind.PROOF else "judge"  # what is no proof certifies nothing
    for stage, seconds in summary["seconds"].items():
        yield f"seconds to {verb if stage == 'certify' else stage}", f"{seconds:.1f}"
    if "test_images" in summary:
        yield f"milliseconds to {verb} an image", f"{1000 * summary['seconds']['certify'] / summary['test_images']:.3g}"
