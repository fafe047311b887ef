"""Images a little beyond one that has another label: at the boundary itself, the size of a batch may decide a label."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

STEPS = range(50, 0, -2)  # image and clean image move apart by the fraction 2⁻ᵏ of what lies between them


def outward(x: Tensor, image: Tensor) -> Iterator[Tensor]:
    """`image`, and then images of [0, 1] ever farther from the clean image `x` (1, C, H, W), along the same line."""
    yield image
    for step in STEPS:
        yield (image + 2.0**-step * (image - x)).clamp(0, 1)
