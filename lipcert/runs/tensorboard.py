"""What a run shows in TensorBoard: an epoch's numbers while it trains, and its record in the end."""

from __future__ import annotations

import csv
import io
import itertools
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lipcert.files import write_atomic
from lipcert.runs.layout import METRICS
from lipcert.runs.numbers import MAXIMA, WORDS

NUMBERS = itertools.count()  # of the event files of this process


class Events:
    """A new event file in a run's directory, for TensorBoard.

    TensorBoard's own writer has a thread for the file, which an error ends unheard; this one writes at once, or raises
    OSError.

    directory   the run's
    purge_step  the first step of which everything that was logged before is dropped
    """

    def __init__(self, directory: Path, purge_step: int | None = None):
        from tensorboard.compat.proto.event_pb2 import SessionLog

        place = f"{socket.gethostname()}.{os.getpid()}.{next(NUMBERS)}"
        self.path = directory / f"events.out.tfevents.{int(time.time()):010d}.{place}"
        self._add(file_version="brain.Event:2")
        if purge_step is not None:
            self._add(step=purge_step, session_log=SessionLog(status=SessionLog.START))

    def summary(self, summary: Any, step: int = 0) -> None:
        """Adds what TensorBoard calls a summary."""
        self._add(summary=summary, step=step)

    def scalar(self, name: str, value: float, step: int = 0) -> None:
        """Adds a number."""
        from torch.utils.tensorboard.summary import scalar

        self.summary(scalar(name, value), step)

    def image(self, name: str, png: bytes) -> None:
        """Adds a picture that is coded as PNG."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        width, height = struct.unpack(">II", png[16:24])
        image = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=png)
        self.summary(Summary(value=[Summary.Value(tag=name, image=image)]))

    def _add(self, **event: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        record = io.BytesIO()
        RecordWriter(record).write(Event(wall_time=time.time(), **event).SerializeToString())
        try:
            with self.path.open("ab") as file:
                file.write(record.getvalue())
        except OSError as error:
            error.filename = str(self.path)
            raise


class EpochLog:
    """metrics.csv, one row an epoch, and the same scalars for TensorBoard.

    directory  the run's
    keep       how many epochs are done: what was logged of later ones is dropped, for they will be repeated
    """

    def __init__(self, directory: Path, keep: int):
        self.directory, self.path, self.keep = directory, directory / METRICS, keep
        self.rows: list[dict[str, Any]] = [row for row in read_metrics(directory) if int(row["epoch"]) <= keep]
        self.events: Events | None = None

    def __call__(self, numbers: dict[str, float]) -> None:
        """Logs the numbers of one epoch."""
        if self.events is None:
            self.events = Events(self.directory, purge_step=self.keep + 1)
        for name, value in numbers.items():
            if name not in ("epoch", "step"):
                self.events.scalar(name, value, int(numbers["epoch"]))
        self.rows.append(numbers)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(key for row in self.rows for key in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomic(self.path, text.getvalue())


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """The rows of metrics.csv; [] where there is none. ValueError where it holds something else."""
    from lipcert.files import read_regular

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


def write_record(directory: Path, config: Mapping[str, Any], summary: Mapping[str, Any], curves: bytes) -> None:
    """The curves as an image, the accuracies as scalars, and the HParams entry by which runs are compared.

    curves  a picture, as PNG
    """
    from torch.utils.tensorboard.summary import hparams

    numbers: dict[str, Any] = {"clean_accuracy": summary.get("clean_accuracy")}
    for word in WORDS.values():
        numbers |= {f"{word}_accuracy/{eps}": value for eps, value in summary.get(f"{word}_accuracy", {}).items()}
    for key in ("median_radius", "nominal_median_radius", "statistical_median_radius", *MAXIMA):
        numbers[key] = summary.get(key)
    numbers |= {f"median_distance/{attack}": value for attack, value in summary["median_distance"].items()}
    for attack, values in summary["robust_accuracy"].items():
        numbers |= {f"robust_accuracy/{attack}/{eps}": value for eps, value in values.items()}
    numbers = {key: value for key, value in numbers.items() if value is not None}
    events = Events(directory)
    events.image("curves", curves)
    for entry in hparams(hyperparameters(config), numbers):
        events.summary(entry)
    for name, value in numbers.items():
        events.scalar(name, value)


def hyperparameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the HParams tab compares runs by. It sorts the names and shows the first five, so those are the five choices
    that make a run (capital letters come first); the values below them follow.
    """
    parts = ("dataset", "loss", "model", "optimizer")
    out = {part.capitalize(): config[part]["_target_"].rpartition(".")[2] for part in parts}
    out["Seed"] = config["seed"]
    for part in (*parts, "schedule"):
        out |= flat(config[part], f"{part}.")
    return out


def flat(node: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Dotted keys to plain values, without what only says where things lie or repeats the seed."""
    out: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, dict):
            out |= flat(value, f"{prefix}{key}.")
        elif key not in ("_target_", "_partial_", "data_dir", "path", "seed") and value is not None:
            out[f"{prefix}{key}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return out
