"""What `lipcert audit` finds: a row for each image, and the numbers that are queries on rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple


class AuditRow(NamedTuple):
    """One line of audit.csv: a test image whose proved radius was attacked.

    split, index      of the image
    norm, certificate of the radius
    radius            what is proved of the exact network
    distance          the smallest at which float64 gives another label, as far as the suite found one; inf without
    slack             distance/radius − 1: a radius too large by this fraction would have been noticed
    attack, factor    what found it, and at which multiple of the radius; None: by an attack that needs no radius
    radius_float32    what is proved of the network in float32; None where nothing is
    distance_float32  the smallest at which float32 gives an image of float32 another label; inf without
    attack_float32    what found that
    pairs             how many attacks the image was given to, each at one factor in one precision
    """

    split: str
    index: int  # type: ignore[assignment]
    norm: str
    certificate: str
    radius: float
    distance: float
    slack: float
    attack: str
    factor: float | None
    radius_float32: float | None
    distance_float32: float
    attack_float32: str
    pairs: int


class FixedRow(NamedTuple):
    """One line of audit_eps.csv: a test image that was attacked at one eps, of which nothing is proved.

    split, index       of the image
    norm, eps          of the ball
    label, prediction  classes
    distance           the smallest at which float64 gives another label: 0 where the clean image has another one, inf
                       where none was found
    attack             what found it
    distance_float32   the same in float32, and `attack_float32` what found it
    pairs              how many attacks the image was given to
    """

    split: str
    index: int  # type: ignore[assignment]
    norm: str
    eps: float
    label: int
    prediction: int
    distance: float
    attack: str
    distance_float32: float
    attack_float32: str
    pairs: int


def broken(row: AuditRow) -> bool:
    """Whether an image was found within one of the two radii."""
    return within(row.distance, row.radius) or within(row.distance_float32, row.radius_float32)


def within(distance: float, radius: float | None) -> bool:
    """Whether a distance lies within a radius; a radius of 0, and none, claim nothing."""
    return bool(radius) and distance <= (radius or 0.0)


def one_of(indices: Collection[int], **columns: Any) -> Callable[[Any], bool]:
    """Whether a row is of one of some images, and has these values in other columns."""
    return lambda row: row.index in indices and all(getattr(row, key) == value for key, value in columns.items())


def numbers(rows: Sequence[AuditRow]) -> dict[str, Any]:
    """What is said of an audit, null where there is no such number.

    images, pairs             that were audited, and pairs of an image and an attack
    broken                    images within whose radius another label was found
    found                     images of which another label was found at any distance
    smallest_noticed          the smallest distance/radius: a radius too large by more than this factor on that image
                              would have been noticed; `..._float32` of the network in float32
    median_noticed            the median over the images; those without a distance count as infinite
    noticed                   {factor: images of which a radius too large by it would have been noticed}
    """
    ratios = sorted(row.distance / row.radius for row in rows)
    single = [row.distance_float32 / row.radius_float32 for row in rows if row.radius_float32]
    return {
        "images": len(rows),
        "pairs": sum(row.pairs for row in rows),
        "broken": sum(map(broken, rows)),
        "found": sum(map(math.isfinite, ratios)),
        "smallest_noticed": finite(min(ratios, default=math.inf)),
        "smallest_noticed_float32": finite(min(single, default=math.inf)),
        "median_noticed": finite(statistics.median(ratios)) if ratios else None,
        "noticed": {repr(k): sum(ratio <= k for ratio in ratios) for k in NOTICED},
    }


NOTICED = (1.01, 1.05, 1.1, 1.25, 1.5, 2.0)


def robust_accuracy(rows: Sequence[FixedRow], eps: float, single: bool = False) -> float:
    """The fraction of images whose label nothing was found to change within eps; `single`: in float32."""
    if not rows:
        raise ValueError("there are no rows to count")
    return statistics.fmean((row.distance_float32 if single else row.distance) > eps for row in rows)


def finite(value: float) -> float | None:
    """A number as JSON has it: None for infinity."""
    return value if math.isfinite(value) else None


def check_facts(facts: Any, source: str) -> None:
    """ValueError where facts are not what an audit has written into the file `source`."""

    def is_block(block: Any) -> bool:
        return (
            isinstance(block, dict)
            and all(type(block.get(key)) in (int, float) for key in ("seconds", "cpu_seconds"))
            and isinstance(block.get("attacks"), dict)
            and all(isinstance(mine, dict) and mine.keys() == {"tried", "found"} for mine in block["attacks"].values())
            and all(type(count) is int for mine in block["attacks"].values() for count in mine.values())
        )

    parts = facts if isinstance(facts, dict) else {}
    whole = all(isinstance(parts.get(key), dict) for key in ("settings", "blocks"))
    if not whole or not all(start.isdecimal() and is_block(block) for start, block in parts["blocks"].items()):
        raise ValueError(f"{source} is damaged: again=true starts anew")


def total(counts: Iterable[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    """Counts by attack, added up."""
    found: dict[str, dict[str, int]] = {}
    for each in counts:
        for name, mine in each.items():
            sums = found.setdefault(name, dict.fromkeys(mine, 0))
            for key, count in mine.items():
                sums[key] += count
    return found
