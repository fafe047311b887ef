"""Our numbers: what the runs of a row have in each column of its table."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lipcert.files import read_regular
from lipcert.reporting.published import MEDIAN, Column, Scale, Table
from lipcert.reproduction.jobs import Job, sources
from lipcert.runs.directory import RunDirectory, is_run
from lipcert.runs.find import is_finished
from lipcert.runs.layout import SUMMARY

MOST_BYTES = 1 << 26
TUNED_BY = "splits/val/clean_accuracy"  # in summary.json


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


Values = Mapping[str, Mapping[str, Value]]


def measure(table: Table, scale: Scale, jobs: Sequence[Job]) -> dict[str, dict[str, Value]]:
    """{row: {column: value}} of the jobs that are done."""
    found: dict[str, dict[str, list[Path]]] = {}
    for job in counting(jobs):
        found.setdefault(job.table, {}).setdefault(job.row.name, []).append(job.directory)
    values = {name: _row(table, scale, name, found) for name in table.rows}
    return {name: row for name, row in values.items() if row}


def counting(jobs: Sequence[Job]) -> list[Job]:
    """The jobs that are done; of those that tune a row with one seed the most accurate one on validation images."""
    done: dict[tuple, Job] = {}
    for job in jobs:
        if job.row.command != "train" or (is_run(job.directory) and is_finished(RunDirectory(job.directory))):
            key = job.table, job.row.name, job.seed
            done[key] = max(done.get(key, job), job, key=_tuned_by)
    return list(done.values())


def _tuned_by(job: Job) -> float:
    """The accuracy on validation images, -1 where it is not known."""
    accuracy = _at(_content(job.directory / SUMMARY), TUNED_BY) if job.tried else None
    return -1.0 if accuracy is None else accuracy


def _row(table: Table, scale: Scale, name: str, found: Mapping[str, Mapping[str, Sequence[Path]]]) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for column, how in table.columns.items():
        key = scale.keys.get(column, how.key)
        places = [place.rpartition("/") for place in sources(how, table.rows[name], scale)] or [(table.name, "/", name)]
        known = [
            value
            for other, _, row in places
            if key is not None
            if (
                value := _over(
                    table, how, key, name, scale.radius or table.rows[name].radius, found.get(other, {}).get(row, [])
                )
            )
        ]
        if known:
            values[column] = max(known, key=lambda value: value.number)
    return values


def _over(table: Table, column: Column, key: str, row: str, radius: float | None, runs: Sequence[Path]) -> Value | None:
    """The number over runs; None where no run has it."""
    file, path = key.rpartition(":")[::2]
    contents = [_content(run / (file or SUMMARY)) for run in runs]
    found = [
        (content, _at(content, path.replace("{radius}", repr(radius)).replace("{row}", row))) for content in contents
    ]
    known = [(content, number) for content, number in found if number is not None]
    if not known:
        return None
    shares = [_at(content, column.per) if column.per else 1.0 for content, _ in known]
    numbers = [_shown(number / share, column) for (_, number), share in zip(known, shares, strict=True) if share]
    images = min(_images(content, path) for content, _ in known)
    return _over_runs(numbers, column, images, table.statistic) if numbers else None


def _content(path: Path) -> Mapping[str, Any]:
    """What a file of a run says; nothing where the run has none."""
    try:
        content = json.loads(read_regular(path, MOST_BYTES))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        raise ValueError(f"{path} is damaged") from None
    return content if isinstance(content, Mapping) else {}


def with_quoted(table: Table, values: Values) -> dict[str, Mapping[str, Value]]:
    """The values, and those of rows that nobody trains here as they were published."""
    quoted = {
        row.name: {column: Value(number, None, 0, 0.0) for column, number in row.published.items()}
        for row in table.rows.values()
        if table.is_quoted(row)
    }
    return {**quoted, **values}


def _at(node: Any, path: str) -> float | None:
    """The number at a path of keys, which may have / in them, or places of a list; None where there is none."""
    if isinstance(node, int | float) and not path:
        return float(node) if math.isfinite(node) else None
    parts = path.split("/")
    if isinstance(node, list) and parts[0].isdigit() and int(parts[0]) < len(node):
        return _at(node[int(parts[0])], "/".join(parts[1:]))
    for n in range(len(parts), 0, -1):
        if isinstance(node, Mapping) and (key := "/".join(parts[:n])) in node:
            return _at(node[key], "/".join(parts[n:]))
    return None


def _shown(number: float, column: Column) -> float:
    number = column.times * (100 * number if column.unit == "percent" else number)
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
