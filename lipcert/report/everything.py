"""All numbers of a run's summary.json, each with what it means."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from lipcert.report.blocks import Grid, Row
from lipcert.reporting.rounding import count, decimal
from lipcert.runs.summary import KEYS

PROVED = ("certified_", "mean_radius", "median_radius")  # how keys of proofs begin
DEEPEST = 3  # of dictionaries in one another


def everything(summary: Mapping[str, Any]) -> Grid:
    """A table of all that `summary` has a meaning for; what is proved is rounded down."""
    rows = [row for key, meaning in KEYS.items() if key in summary for row in _rows(key, key, summary[key], meaning)]
    return Grid("Every number of the record (fractions are of 1)", ["Value"], rows, folded=True)


def _rows(key: str, name: str, value: Any, meaning: str, depth: int = 1) -> Iterator[Row]:
    if isinstance(value, dict) and depth <= DEEPEST:
        for inner, found in value.items():
            yield from _rows(key, f"{name} {inner}", found, meaning, depth + 1)
    elif isinstance(value, str | int | float) or value is None:
        told = f"{meaning[:1].upper()}{meaning[1:]}."
        yield Row(name.replace("_", " "), [_shown(value, key.startswith(PROVED))], told)


def _shown(value: str | float | None, claim: bool) -> str:
    if value is None or isinstance(value, str):
        return value or "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value) if abs(value) < 1e15 else f"{value:.4g}"
    return decimal(value, claim) if claim or not math.isfinite(value) else f"{value:.6g}"
