"""How much of an image's true robustness its certificate proves: radii, estimates and distances, and their ratios."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

ROUNDING = 1e-9  # relative: a gradient as steep as its bound is computed with this error at most


class TightnessRow(NamedTuple):
    """One line of tightness.csv: one test image. Misclassified ones have 0 in the last four columns.

    `certified_radius` is proved. The estimates are what radii would be if no margin were steeper than the steepest
    gradient seen, near any image (global) or near this one (local): the truth may be less, and no radius is claimed.
    `batch_estimate` is the local one as the authors' code has it, by the steepest gradient near any image of the same
    batch; None unless `gradients=batch`.
    """

    split: str
    index: int  # type: ignore[assignment]
    label: int
    prediction: int
    margin: float
    certified_radius: float
    global_estimate: float
    local_estimate: float
    attack_distance: float
    batch_estimate: float | None = None


class Ratio(NamedTuple):
    """`above`/`below`: at least 1 but for `attack_distance` over an estimate, which is no bound."""

    number: str
    above: str
    below: str

    def __str__(self) -> str:
        return f"{self.number} {self.above} / {self.below}".replace("_", " ").strip()

    def of(self, row: TightnessRow) -> float:
        above, below = getattr(row, self.above), getattr(row, self.below)
        return 1.0 if above == below else above / below


COLUMNS, BATCH = TightnessRow._fields[5:9], "batch_estimate"
RATIOS = (
    Ratio("(i)", "global_estimate", "certified_radius"),
    Ratio("(ii)", "local_estimate", "global_estimate"),
    Ratio("(iii)", "attack_distance", "local_estimate"),
    Ratio("", "attack_distance", "certified_radius"),
)
BATCH_RATIOS = (Ratio("(ii)", BATCH, "global_estimate"), Ratio("(iii)", "attack_distance", BATCH))
BOUNDS = {"corollary1": "Corollary 1", "parseval": "Parseval", "peck": "Peck"}


def compared(rows: Sequence[TightnessRow]) -> list[TightnessRow]:
    """The rows that have ratios: classified rightly, with a radius."""
    return [row for row in rows if row.prediction == row.label and 0 < row.certified_radius < math.inf]


def by_batch(rows: Sequence[TightnessRow]) -> bool:
    """Whether rows have the estimates by the steepest gradient of a batch."""
    return bool(rows) and all(row.batch_estimate is not None for row in rows)


def ratios_of(rows: Sequence[TightnessRow]) -> tuple[Ratio, ...]:
    """The ratios that rows have."""
    return RATIOS + BATCH_RATIOS * by_batch(rows)


def broken_chain(rows: Sequence[TightnessRow]) -> list[tuple[TightnessRow, str]]:
    """Each row whose certified radius is above its estimate by gradients, or not below its attack's distance; and the
    column. Must be empty: a sound bound is at least as steep as any gradient."""
    radii = [row for row in rows if row.certified_radius > 0]
    steep = [(r, "global_estimate") for r in radii if not r.certified_radius <= r.global_estimate * (1 + ROUNDING)]
    return steep + [(r, "attack_distance") for r in radii if not r.certified_radius < r.attack_distance]


def tightness(rows: Sequence[TightnessRow], layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The numbers of tightness.json that are queries on its rows: `medians` count misclassified images as 0, `ratios`
    are medians over the images that have them, `layers` is each layer's bounds. Null is no number, or infinity."""
    alike, columns = compared(rows), (*COLUMNS, *[BATCH] * by_batch(rows))
    return {
        "images": len(rows),
        "compared": len(alike),
        "medians": {column: statistics.median(getattr(row, column) for row in rows) for column in columns},
        "ratios": {
            f"{ratio.above}/{ratio.below}": statistics.median(map(ratio.of, alike)) if alike else None
            for ratio in ratios_of(rows)
        },
        "layers": list(layers),
    }


def over(row: Mapping[str, Any], name: str) -> float:
    """How many times the proved norm another bound is; 1 for a layer that is 0."""
    return row[name] / row["proved"] if row["proved"] else 1.0
