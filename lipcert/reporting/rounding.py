"""Numbers as people read them: what claims a guarantee is rounded down."""

from __future__ import annotations

import math
from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal


def percent(fraction: float | None, claim: bool = False) -> str:
    """A fraction in percent with two decimals, without the sign. What claims a guarantee is rounded down."""
    return _rounded(fraction, Decimal(100), Decimal("0.01"), claim)


def decimal(value: float | None, claim: bool = False) -> str:
    """A number with four decimals. What claims a guarantee is rounded down."""
    return _rounded(value, Decimal(1), Decimal("0.0001"), claim)


def factor(value: float | None) -> str:
    """A factor of at least 1 with four decimals, rounded up: what is noticed at a factor is noticed at a larger one."""
    return "–" if value is None else f"{math.ceil(value * 1e4 - 1e-6) / 1e4:.4f}"


def count(value: float, claim: bool = False) -> str:
    """A number of things, or the mean of some, with commas."""
    return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"


def seconds(value: float, claim: bool = False) -> str:
    """Seconds to a tenth, with commas."""
    return f"{value:,.1f}"


def _rounded(value: float | None, scale: Decimal, unit: Decimal, claim: bool) -> str:
    if value is None or not math.isfinite(value):
        return "–" if value is None else str(value)
    # The mean of 0.01 % and 0.03 % is 0.00019999… in binary. Without its last digits it is floored to what is meant,
    # and no fraction of fewer than 10⁸ images lies so close below a hundredth of a percent.
    exact = Decimal(f"{value:.12f}") * scale if scale != 1 else Decimal(value)
    rounding = ROUND_FLOOR if claim else ROUND_HALF_EVEN
    if abs(exact) >= 10**12:  # 1.234E+15
        return str(Context(prec=4, rounding=rounding).plus(exact))
    return str(exact.quantize(unit, rounding))
