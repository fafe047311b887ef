"""How far a long computation is: a bar where a person looks on, else a line every half minute."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import TypeVar

from rich import progress
from rich.console import Console

T = TypeVar("T")
EVERY = 30.0  # seconds between two lines


class Progress:
    """The progress of one computation, which begins on entering this context, and ends on leaving it.

    what    is computed, in a word or two
    total   the number of its steps
    done    how many of them were taken before
    shown   whether this process shows anything
    stderr  whether it does so on standard error; otherwise on standard output
    """

    def __init__(self, what: str, total: int, done: int = 0, *, shown: bool = True, stderr: bool = True):
        self.what, self.total, self.done, self.before = what, total, done, done
        self.console = Console(stderr=stderr)
        terminal = self.console.is_terminal
        self.lines, self.untold = shown and not terminal, ""
        self.bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=not (shown and terminal),
        )

    def __enter__(self) -> Progress:
        self.started = self.last = time.monotonic()
        self.task = self.bar.add_task(self.what, total=self.total, completed=self.done, note="")
        self.bar.start()
        return self

    def __exit__(self, error: object, *_: object) -> None:
        self.bar.stop()
        if self.untold and not error:
            self._print(self.untold)

    def move(self, done: int, what: str | None = None) -> None:
        """So many steps are done, and `what` is next."""
        self.done, self.what = done, what or self.what
        self.bar.update(self.task, completed=done, description=self.what)

    def tell(self, note: str = "") -> None:
        """Shows a note beside the bar. Without a bar, prints a line if the last one was long ago; the last note of all
        is printed in any case."""
        self.bar.update(self.task, note=note)
        self.untold = note if self.lines else ""
        if self.lines and time.monotonic() - self.last >= EVERY:
            self._print(note or f"{self.done}/{self.total}")

    def _print(self, note: str) -> None:
        self.last, self.untold = time.monotonic(), ""
        elapsed, steps = self.last - self.started, self.done - self.before
        line = f"{self.what}: {note}, {clock(elapsed)} elapsed"
        if steps and self.done < self.total:
            line += f", about {clock(elapsed / steps * (self.total - self.done))} to go"
        self.console.print(line, soft_wrap=True, highlight=False, markup=False)


def track(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """The items, of which there are `total`, with their progress."""
    with Progress(what, total) as shown:
        for done, item in enumerate(items, 1):
            yield item
            shown.move(done)
            shown.tell()


def waiting(what: str) -> AbstractContextManager:
    """A sign on standard error that `what` goes on, where a person looks on at a terminal."""
    console = Console(stderr=True)
    return console.status(what) if console.is_terminal else nullcontext()  # not in a notebook


def clock(seconds: float) -> str:
    """A time as 0:02:05: hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))
