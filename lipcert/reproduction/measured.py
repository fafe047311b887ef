"""Our numbers: what the runs of a row have in each column of its table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lipcert.reporting.published import MEDIAN, Column, Row, Scale, Table
from lipcert.reproduction.jobs import Job
from lipcert.runs.directory import RunDirectory, is_run
from lipcert.runs.find import is_finished
from lipcert.runs.layout import SUMMARY


class Value(NamedTuple):
    """A number over seeds, in the unit of its column.

    number  the mean over the runs, or their median where the table prints that
    spread  standard deviation over the runs; None with one run
    runs    how many
    error   standard error of a mean over so many runs, and of a fraction of images at least what so many images leave
            open; None where neither is known, 0 for what was published
    """

    number: float
    spread: float | None
    runs: int
    error: float | None


def measure(table: Table, scale: Scale, jobs: Sequence[Job]) -> dict[str, dict[str, Value]]:
    """{row: {column: value}} of the jobs that are done."""
    found: dict[str, list[dict[str, Any]]] = {}
    for job in jobs:
        if is_run(job.directory) and is_finished(run := RunDirectory(job.directory)):
            found.setdefault(job.row.name, []).append(run.read_json(SUMMARY))
    return {name: _row(table, scale, table.rows[name], summaries) for name, summaries in found.items()}


def _row(table: Table, scale: Scale, row: Row, summaries: Sequence[Mapping[str, Any]]) -> dict[str, Value]:
    values = {}
    for name, column in table.columns.items():
        key = scale.keys.get(name, column.key)
        numbers = [] if key is None else [_at(summary, key, scale.radius or row.radius) for summary in summaries]
        known = [_shown(number, column) for number in numbers if number is not None]
        if known:
            images = min(_images(summary, key or "") for summary in summaries)
            values[name] = _over_runs(known, column, images, table.statistic)
    return values


def with_quoted(table: Table, values: Mapping[str, Mapping[str, Value]]) -> dict[str, Mapping[str, Value]]:
    """The values, and those of rows that nobody trains here as they were published."""
    quoted = {
        row.name: {column: Value(number, None, 0, 0.0) for column, number in row.published.items()}
        for row in table.rows.values()
        if not row.trained
    }
    return {**quoted, **values}


def _at(summary: Mapping[str, Any], key: str, radius: float | None) -> float | None:
    """The number at a path of keys; None where there is none."""
    node: Any = summary
    for part in key.replace("{radius}", repr(radius)).split("/"):
        node = node.get(part) if isinstance(node, Mapping) else None
    return float(node) if isinstance(node, int | float) and math.isfinite(node) else None


def _shown(number: float, column: Column) -> float:
    number = 100 * number if column.unit == "percent" else number
    return 100 - number if column.complement else number


def _images(summary: Mapping[str, Any], key: str) -> int:
    """How many images a fraction is of."""
    attacked = summary.get("attacked_images", {})
    label = key.split("/")[1] if key.startswith("robust_accuracy/") else None
    return int(attacked.get(label, 0) if label else summary.get("test_images", 0))


def _over_runs(numbers: Sequence[float], column: Column, images: int, statistic: str) -> Value:
    number = statistics.median(numbers) if statistic == MEDIAN else statistics.fmean(numbers)
    spread = statistics.stdev(numbers) if len(numbers) > 1 else None
    errors = [] if spread is None else [spread / math.sqrt(len(numbers))]
    if column.unit == "percent" and images:
        share = min(max(number / 100, 1 / (images + 1)), images / (images + 1))  # none of so many may still be some
        errors.append(100 * math.sqrt(share * (1 - share) / images))
    return Value(number, spread, len(numbers), max(errors, default=None))
