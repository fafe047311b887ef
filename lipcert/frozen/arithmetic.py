"""The floating-point arithmetic that a network is evaluated in, as far as error bounds depend on it."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Arithmetic:
    """Rounding to nearest, with or without subnormal numbers.

    unit     the unit roundoff: one operation errs by at most `unit` times its result
    tiny     the smallest normal number: one underflow loses at most this, whether flushed to zero or not
    largest  the largest finite number
    safety   bounds of the rounding errors of sums of products are multiplied by this: 1 where they cover any order of
             summation and nothing else, such as the transforms of Winograd and FFT convolutions
    """

    unit: float
    tiny: float
    largest: float
    safety: float = 8.0

    def gamma(self, roundings: int) -> float:
        """γ_n = n·u/(1 − n·u), the relative error of n roundings in a row (Higham, *Accuracy and Stability*, §3.1).

        Infinite where n·u is 1 or more.
        """
        share = roundings * self.unit
        return share / (1 - share) if share < 1 else math.inf


FLOAT64 = Arithmetic(2.0**-53, 2.0**-1022, sys.float_info.max)
FLOAT32 = Arithmetic(2.0**-24, 2.0**-126, (2 - 2.0**-23) * 2.0**127, safety=1.0)
EXACT = Arithmetic(0.0, 0.0, math.inf)  # real numbers, for training: nothing is rounded outward
