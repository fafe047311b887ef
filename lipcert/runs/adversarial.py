"""The images that attacks found, kept on request: a file of each attack, which grows with its rows.

A file is arrays one behind another, each as `numpy.save` writes it: the images of one batch, with what tells their rows
in attacks.csv, before which they are written. Whoever is killed meanwhile loses the last batch alone. Of images of one
row the last one counts. They are in float64, as they were judged.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from lipcert.contracts import AttackRow
from lipcert.runs.directory import LARGEST, RunDirectory
from lipcert.runs.layout import ADVERSARIAL, ATTACKS
from lipcert.runs.results import drop_rows
from lipcert.runs.tried import Tried

if TYPE_CHECKING:
    import numpy as np


# What `numpy.save` writes before these arrays. numpy's own reader would parse whatever stands there as Python.
MAGIC = b"\x93NUMPY\x01\x00"
HEADER = re.compile(
    rb"\{'descr': \[\('index', '<i8'\), \('eps', '<f8'\), \('factor', '<f8'\), "
    rb"\('image', '<f8', \((\d+(?:, \d+)+)\)\)\], 'fortran_order': False, 'shape': \((\d+),\), \} *\n"
)


class Place(NamedTuple):
    """Which row of one attack an image is of: the columns of these names."""

    index: int  # type: ignore[assignment]
    eps: float | None
    factor: float | None

    @classmethod
    def of(cls, row: AttackRow) -> Place:
        """That of a row."""
        return cls(row.index, row.eps, row.factor)


def is_kept(row: AttackRow) -> bool:
    """Whether a row has an image to keep: the attack found one, which is not the clean image itself."""
    return row.success and row.distance > 0


def file_of(label: str) -> str:
    """The name of the file of an attack, in a run's directory."""
    name = re.sub(r"[^\w.+-]", "_", label)[:100]
    same = "" if name == label else f"-{hashlib.sha256(label.encode()).hexdigest()[:8]}"
    return f"{ADVERSARIAL}/{name}{same}.npys"


def append(run: RunDirectory, label: str, images: Mapping[Place, np.ndarray]) -> None:
    """Adds images (C, H, W) in float64 to those of an attack, on a run whose lock is held."""
    import numpy as np

    if not images:
        return
    block = np.empty(len(images), _form(next(iter(images.values())).shape))
    for k, (place, image) in enumerate(images.items()):
        block[k] = (place.index, *(math.nan if x is None else x for x in place[1:]), image)
    content = io.BytesIO()
    np.save(content, block, allow_pickle=False)
    run.append_bytes(file_of(label), content.getvalue())


def read(run: RunDirectory, label: str) -> dict[Place, np.ndarray]:
    """The images (C, H, W) that are kept of an attack; {} where none are. ValueError where the file is damaged."""
    name = file_of(label)
    found: dict[Place, np.ndarray] = {}
    if run.has(name):
        for block in _blocks(run.read(name, LARGEST), str(run / name)):
            for index, eps, factor, image in block:
                found[Place(int(index), _or_none(eps), _or_none(factor))] = image
    return found


def drop_unsaved(run: RunDirectory, split: str, label: str, tried: Collection[Tried], images: int) -> None:
    """Takes out the rows of an attack on the first `images` images, at each of `tried` at which one should have an
    image and has none: all of them, as what a batch gives may depend on the images in it. The lock is held.

    A file of images that is damaged is deleted, which is said on stderr.
    """
    name = file_of(label)
    if run.has(name):
        try:
            run.verify(name)
        except ValueError as error:
            print(f"lipcert: {error}; this is done now", file=sys.stderr)
            run.forget(name)
    kept = read(run, label)

    def mine(row: AttackRow) -> bool:
        return (row.split, row.attack) == (split, label) and row.index < images and Tried.of(row) in tried

    rows = filter(mine, run.read_rows(ATTACKS, AttackRow))
    unsaved = {Tried.of(row) for row in rows if is_kept(row) and Place.of(row) not in kept}
    drop_rows(run, ATTACKS, AttackRow, lambda row: mine(row) and Tried.of(row) in unsaved)


def _form(shape: tuple[int, ...]) -> list[Any]:
    return [("index", "<i8"), ("eps", "<f8"), ("factor", "<f8"), ("image", "<f8", shape)]


def _blocks(content: bytes, source: str) -> Iterator[np.ndarray]:
    import numpy as np

    start = 0
    try:
        while start < len(content):
            first = start + len(MAGIC) + 2
            size = int.from_bytes(content[first - 2 : first], "little")
            found = HEADER.fullmatch(content, first, first + size)
            if not content.startswith(MAGIC, start) or found is None:
                raise ValueError
            shape, count = tuple(map(int, found[1].split(b","))), int(found[2])
            block = np.frombuffer(content, _form(shape), count, found.end())
            yield block
            start = found.end() + block.nbytes
    except (ValueError, OverflowError):
        raise ValueError(f"{source} does not hold images of an attack: delete it") from None


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
