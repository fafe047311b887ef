"""metrics.csv: what every epoch of a training gave, one row an epoch."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lipcert.files import read_regular, write_atomic
from lipcert.runs.layout import METRICS


class Metrics:
    """The metrics.csv of a run that trains on.

    directory  the run's
    keep       how many epochs are done: what was logged of later ones is dropped, for they will be repeated
    """

    def __init__(self, directory: Path, keep: int):
        self.path = directory / METRICS
        self.rows: list[Mapping[str, Any]] = [row for row in read_metrics(directory) if int(row["epoch"]) <= keep]

    def epoch(self, numbers: Mapping[str, float]) -> None:
        """Adds the row of one epoch."""
        self.rows.append(numbers)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(key for row in self.rows for key in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomic(self.path, text.getvalue())


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """The rows of metrics.csv; [] where there is none. ValueError where it holds something else."""
    path = directory / METRICS
    if not path.exists():
        return []
    try:
        rows = list(csv.DictReader(io.StringIO(read_regular(path, 1 << 28).decode()), strict=True))
        for row in rows:
            float(row["seconds"]), int(row["epoch"])
    except (csv.Error, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        reason = str(error) if str(path) in str(error) else f"{path} does not hold an epoch a line"
        raise ValueError(f"{reason}: delete it, and the training goes on without what it says of past epochs") from None
    return rows
