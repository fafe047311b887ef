"""Accuracy and robustness by gap: the test images in ten equal parts, from the least sure answers to the surest."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lipcert.contracts import CertificateRow
from lipcert.runs import numbers

PARTS = 10


class Decile(NamedTuple):
    """One part of the images.

    smallest, largest  gap in it, in logits
    images             how many it has
    accuracy           fraction that is classified rightly
    within             {eps: fraction classified rightly with a radius of eps or more}
    median_radius      misclassified images counting 0
    attacked           how many of its images were attacked
    left               {eps: fraction of those that every attack left rightly classified}; {} of none
    """

    smallest: float
    largest: float
    images: int
    accuracy: float
    within: Mapping[float, float]
    median_radius: float
    attacked: int
    left: Mapping[float, float]


def gap_of(row: CertificateRow) -> float:
    """The largest logit minus the second largest. Rows of older versions have the label's margin alone: of an image
    that is classified rightly it is the same, of a misclassified one it is what its label is behind."""
    return abs(row.margin) if row.gap is None else row.gap


def deciles(rows: Sequence[CertificateRow], distances: Mapping[int, float], eps: Sequence[float]) -> list[Decile]:
    """The parts of `rows`, the smallest gaps first; fewer than ten where there are fewer rows, none without a number.

    distances  of the attacked images, as `record.together` has them
    eps        radii at which to count
    """
    known = sorted((row for row in rows if math.isfinite(row.margin)), key=gap_of)
    count = min(PARTS, len(known))
    edges = [round(i * len(known) / count) for i in range(count + 1)] if count else [0]
    parts = [known[low:high] for low, high in itertools.pairwise(edges)]
    return [_decile(part, distances, eps) for part in parts]


def _decile(rows: Sequence[CertificateRow], distances: Mapping[int, float], eps: Sequence[float]) -> Decile:
    attacked = [distances[row.index] for row in rows if row.index in distances]
    return Decile(
        smallest=gap_of(rows[0]),
        largest=gap_of(rows[-1]),
        images=len(rows),
        accuracy=numbers.clean_accuracy(rows),
        within={e: numbers.accuracy_within(rows, e) for e in eps},
        median_radius=numbers.median_radius(rows),
        attacked=len(attacked),
        left={e: statistics.fmean(at > e for at in attacked) for e in eps} if attacked else {},
    )
