"""The boundary of a label in float32, number by number: where rounding decides, other sums may decide otherwise."""

from __future__ import annotations

import torch
from torch import Tensor

from lipcert.analyses.audit.judging import Nearest
from lipcert.attacks.batch import choose
from lipcert.attacks.judge import distance

BISECTIONS = 30  # until two neighbours are closer than float32 can tell
STEPS_BACK = (2.0**-8, 2.0**-12, 2.0**-16, 2.0**-20, 2.0**-23)  # parts of the way back to the clean image
NAME = "float32 boundary"


def search(single: Nearest, rows: Tensor, generator: torch.Generator) -> None:
    """Looks for images of float32 with another label near the nearest ones that are known, and offers them.

    single     the nearest images in float32
    rows       which images of the batch
    generator  of random numbers, on the device of the images

    The way from the clean image to the one that is known is bisected to the two numbers of float32 between which the
    label changes. From the outer one it goes back by small steps, while every pixel moves by a few units in the last
    place; and images on both sides are judged in a batch of their own too, where sums may be added in another order.
    """
    rows = rows[single.distance[rows].isfinite()]
    if not len(rows):
        return
    x, end = single.x[rows], single.image[rows]
    low, high = single.legal(x, x), end
    for _ in range(BISECTIONS):
        middle = single.legal((low + high) / 2, x)
        wrong = single.wrong(middle, rows)
        low, high = choose(wrong, low, middle), choose(wrong, middle, high)
    names, factors = known(single, rows)
    single.offer(rows, high, names, factors)
    for back in STEPS_BACK:
        outer = single.image[rows]
        noise = torch.randn(outer.shape, generator=generator, dtype=outer.dtype, device=outer.device)
        moved = x + (1 - back) * (outer - x) + noise * outer.abs() * 2.0**-23
        single.offer(rows, moved, names, factors)
    for images in (low, single.image[rows]):
        alone(single, rows, images)


def alone(single: Nearest, rows: Tensor, images: Tensor) -> None:
    """Keeps the images that are given another label in a batch of their own."""
    wrong = single.wrong(images, rows, one_by_one=True)
    far = distance(single.norm, images, single.x[rows]).masked_fill(~wrong, torch.inf)
    names, factors = known(single, rows)
    single.keep(rows, images, far, names, factors)


def known(single: Nearest, rows: Tensor) -> tuple[list[str], list[float | None]]:
    """The attacks that found the images from which this search starts; they are named for what it finds too."""
    at = rows.tolist()
    return [single.attack[row] for row in at], [single.factor[row] for row in at]
