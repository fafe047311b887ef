"""A hybrid classifier at every threshold that makes a difference."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from lipcert.analyses.hybrid.claims import Images, hybrid_radius, hybrid_right

SHOWN = 11  # thresholds that are shown: at 0, 10, ... 100 % delegated


def at_threshold(images: Images, threshold: float, steepest: float, eps: Sequence[float]) -> dict[str, Any]:
    """What the hybrid does with the images: `threshold`, the fraction `delegated` to B, `clean_accuracy`, and
    `certified_accuracy` by each of the radii `eps`. For `steepest` see `claims.hybrid_radius`."""
    right, radius = hybrid_right(images, threshold), hybrid_radius(images, threshold, steepest)
    return {
        "threshold": threshold,
        "delegated": float(np.mean(images.gap < threshold)),
        "clean_accuracy": float(np.mean(right)),
        "certified_accuracy": {repr(float(e)): float(np.mean(right & (radius >= e))) for e in eps},
    }


def at_all(images: Images, steepest: float, eps: Sequence[float]) -> list[dict[str, Any]]:
    """`at_threshold` at 0, where A answers always, at each gap of an image, and at infinity, where B does."""
    thresholds = np.unique([0.0, *images.gap, np.inf])
    return [at_threshold(images, float(threshold), steepest, eps) for threshold in thresholds]


def shown(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A few of `at_all`: those nearest to equally spaced fractions that are delegated."""
    fractions = np.array([each["delegated"] for each in found])
    places = sorted({int(np.abs(fractions - due).argmin()) for due in np.linspace(0, 1, SHOWN)})
    return [found[place] for place in places]


def as_csv(found: Sequence[dict[str, Any]]) -> str:
    """hybrid.csv: a line a threshold, with a column `certified_EPS` for each radius."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    radii = list(found[0]["certified_accuracy"])
    writer.writerow(["threshold", "delegated", "clean", *(f"certified_{e}" for e in radii)])
    for each in found:
        numbers = [each["threshold"], each["delegated"], each["clean_accuracy"], *each["certified_accuracy"].values()]
        writer.writerow(map(repr, numbers))
    return out.getvalue()
