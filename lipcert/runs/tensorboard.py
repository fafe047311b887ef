"""What a run shows in TensorBoard: an epoch's numbers while it trains, and its record in the end."""

from __future__ import annotations

import io
import itertools
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lipcert.files import read_regular
from lipcert.runs import hparams
from lipcert.runs.config import MOST_BYTES
from lipcert.runs.layout import CONFIG
from lipcert.runs.logged import final_numbers

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

        place = f"{socket.gethostname()}.{os.getpid()}.{next(NUMBERS):06d}"  # TensorBoard reads files in order of names
        self.path = directory / f"events.out.tfevents.{int(time.time()):010d}.{place}"
        self._add(file_version="brain.Event:2")
        if purge_step is not None:
            self._add(step=purge_step, session_log=SessionLog(status=SessionLog.START))

    def summary(self, summary: Any, step: int = 0) -> None:
        """Adds what TensorBoard calls a summary."""
        self._add(summary=summary, step=step)

    def scalar(self, name: str, value: float, step: int) -> None:
        """Adds a number."""
        from torch.utils.tensorboard.summary import scalar

        self.summary(scalar(name, value), step)

    def image(self, name: str, png: bytes, step: int) -> None:
        """Adds a picture that is coded as PNG."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        width, height = struct.unpack(">II", png[16:24])
        image = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=png)
        self.summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)

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


class TensorBoard:
    """A logger (see `contracts.Logger`) that writes event files into the run's directory."""

    def begin(self, directory: Path, config: Mapping[str, Any]) -> None:
        self.directory, self.config = directory, config
        self.events: Events | None = None

    def epoch(self, numbers: Mapping[str, float]) -> None:
        epoch = int(numbers["epoch"])
        if self.events is None:  # what was logged of this epoch and of later ones is repeated
            self.events = self._opened(purge_step=epoch)
        for name, value in numbers.items():
            if name not in ("epoch", "step"):
                self.events.scalar(name if "/" in name else f"time/{name}", value, epoch)

    def record(self, summary: Mapping[str, Any], curves: bytes) -> None:
        events, epochs = self._opened(), summary["epochs"] or 0
        events.image("curves", curves, epochs)
        events.summary(hparams.end())
        for name, value in (hparams.headline(summary) | final_numbers(summary)).items():
            events.scalar(name, value, epochs)

    def end(self, whole: bool) -> None:
        """Nothing is open."""

    def _opened(self, purge_step: int | None = None) -> Events:
        """A new event file, which says first what run it is of."""
        from torch.utils.tensorboard.summary import text

        events = Events(self.directory, purge_step)
        events.summary(hparams.start(self.directory, self.config))
        content = read_regular(self.directory / CONFIG, MOST_BYTES).decode()
        events.summary(text("config", "".join(f"    {line}\n" for line in content.splitlines())))
        return events


def of_run(directory: Path, config: Mapping[str, Any]) -> TensorBoard | None:
    """The TensorBoard of a run that has one. Only this logger contacts nobody, and so may be used by any command."""
    if (config["logger"] or {}).get("_target_") != f"{__name__}.{TensorBoard.__name__}":
        return None
    board = TensorBoard()
    board.begin(directory, config)
    return board
