"""What a certified l2 radius says of an image's single pixels (LMT, Section 6): l∞, steps of one, whole pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

STEPS = 255  # a stored value goes from 0 to 255, and a pixel of [0, 1] changes by 1/255 when it changes by one


def equivalents(radius: float, radii: Sequence[float], shape: Sequence[int]) -> dict[str, Any]:
    """The numbers of tightness.json that say a certified l2 radius in other words. Each is implied by the radius.

    radius  in pixels of [0, 1], as the median of the images
    radii   of all images, 0 where the answer is wrong
    shape   (C, H, W) of an image, of d values

    linf           radius/√d, because ‖v‖₂ ≤ √d·‖v‖_∞; rounded down
    values_by_one  how many values, whichever, may each change by one step of 255: √n/255 < radius
    whole_pixels   how many pixels, whichever, may change in any way, in all channels: √(C·n) < radius
    any_pixel      the fraction of the images that keep their label whatever one pixel becomes: radius > √C
    """
    channels, values = shape[0], math.prod(shape)
    return {
        "linf": radius / math.sqrt(values) * (1 - 2.0**-50),
        "values_by_one": below(radius, Fraction(1, STEPS**2), values),
        "whole_pixels": below(radius, Fraction(channels), values // channels),
        "any_pixel": sum(below(one, Fraction(channels), 1) for one in radii) / len(radii) if radii else 0.0,
    }


def below(radius: float, square: Fraction, most: int) -> int:
    """The largest n ≤ `most` with √(n·square) < radius, by exact fractions; 0 for a radius of 0."""
    if radius == math.inf:
        return most
    return min(most, max(0, math.ceil(Fraction(radius) ** 2 / square) - 1))
