"""Directories that nobody named: their names sort by age, and each belongs to one process."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

MOST_CHARACTERS = 100  # of a name: a directory's may have 255


def clean(text: str) -> str:
    """`text` as a directory's name: what is not a letter, a digit or one of . = + - becomes an underscore."""
    return re.sub(r"[^\w.=+-]+", "_", text).strip("._-")[:MOST_CHARACTERS]


def time_stamp() -> str:
    """Now, to the second, so that names sort by age."""
    return datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def free_directory(parent: Path, name: str = "") -> Path:
    """PARENT/NAME-<now>, newly made: of several that ask in one second, each gets one of its own.

    ValueError where it can't be made.
    """
    stem = "-".join(filter(None, (name, time_stamp())))
    for number in range(1, 1000):
        place = parent / (stem if number == 1 else f"{stem}-{number}")
        try:
            place.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ValueError(f"`output_dir`: {place} can't be made ({error.strerror or error})") from None
        return place
    raise ValueError(f"`output_dir`: {parent} has too many directories called {stem}: give another")
