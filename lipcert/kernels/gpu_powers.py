"""Powers and roots for the Triton kernels, and the constants that they need for an exponent."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import triton
import triton.language as tl


@triton.jit
def to_power(r, e, c, WHOLE: tl.constexpr):
    """rᵉ for 0 <= r <= 1, and for any r if WHOLE = e >= 0: then by products."""
    if WHOLE == 0:
        power = tl.where(r == 0, 0.0, 1.0)  # the derivative of |d| at 0 is taken as 0
    elif WHOLE > 0:
        power, square = 1.0, r
        for bit in tl.static_range(4):
            if (WHOLE >> bit) & 1:
                power = power * square
            if WHOLE >> (bit + 1):
                square = square * square
    elif len(c) > 0:
        z = 1.0 - r
        series = c[0]
        for i in tl.static_range(1, len(c)):
            series = series * z + c[i]
        power = tl.exp2(series * z)
    else:
        power = tl.exp2(e * tl.log2(r))
    return power


@triton.jit
def power_near_one(z, e):
    """(1 - z)ᵉ for e >= 127, by the series of the logarithm: to 3e-5 where it is above 2⁻²⁸, too small below that."""
    series = 1.0 + z * (1 / 2 + z * (1 / 3 + z * (1 / 4 + z * (1 / 5 + z * (1 / 6)))))
    return tl.exp2(-1.4426950408889634 * e * (z * series))


@triton.jit
def _exponential_less_one(t):
    series = 1.0
    for i in tl.static_range(9, 1, -1):
        series = 1.0 + series * t * (1 / i)
    return t * series


@triton.jit
def root_less_one(total, p):
    """The p-th root of a sum, minus 1, for p >= 9; exp2 alone would lose digits, which the gradient magnifies by p."""
    return _exponential_less_one(tl.log2(total) * (0.6931471805599453 / p))


@triton.jit
def with_sign(size, d):
    sign = d.to(tl.int32, bitcast=True) & -2147483648
    return (size.to(tl.int32, bitcast=True) | sign).to(tl.float32, bitcast=True)


def whole(e: float) -> int:
    """e as an integer if `to_power` uses products for it, otherwise -1."""
    return int(e) if e in range(9) else -1


@lru_cache
def logarithm(e: float, p: float) -> tuple[float, ...]:
    """c with rᵉ = 2^(c₀ zᵈ + … + c_{d-1} z), z = 1 - r, up to an error of 1e-4 (rᵖ + 2⁻¹⁴); empty for p < 9."""
    if p < 9:
        return ()
    degrees = np.arange(4 if p >= 32 else 7 if p >= 16 else 10, 0, -1)
    bits = np.linspace(0.1, 40, 200)  # -log2 rᵖ
    z = -np.expm1(-bits * math.log(2) / p)
    weight = np.exp2(-bits * e / p) / (np.exp2(-bits) + 2.0**-14)
    c, *_ = np.linalg.lstsq(z[:, None] ** degrees * weight[:, None], -bits * e / p * weight, rcond=None)
    return tuple(c.tolist())


def resolution(e: float, n: int) -> tuple[float, float, float]:
    """(e, cut, floor), where rᵉ < floor for r < cut, and n such terms add less than 2⁻¹⁶ to a sum of at least 1."""
    e, floor = min(e, 1e30), 2.0**-16 / n
    return e, min(floor ** (1 / e), 1 - 2.0**-20), floor
