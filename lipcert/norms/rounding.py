"""Arithmetic whose results are never below the true ones, at every scale of float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

UNIT = 2.0**-53  # the unit roundoff of float64: the relative error of a result in the normal range
SMALLEST = 2.0**-1074  # the smallest number above 0: a result below the normal range has an error of half of it


def double(w: Tensor) -> Tensor:
    """`w` in float64 (complex128 if it is complex), detached."""
    return w.detach().to(torch.complex128 if w.is_complex() else torch.float64)


def scaled_to_one(w: Tensor) -> tuple[Tensor, Tensor]:
    """Brings matrices to a moderate scale, so that products of their entries neither overflow nor vanish.

    Arguments: `w` (..., m, n), in float64 or complex128, with no axis of length 0.

    Returns (w/s, s) for powers of two s (...). Unless a matrix is 0, its largest entry then has a magnitude of 2⁻⁵² to
    2. The division's rounding errors are below 2⁻¹⁰⁷⁴, which the errors that are added for products of such entries
    cover. A matrix with an entry that is infinite or not a number has s = inf and is replaced by ones: its norm is then
    inf.
    """
    largest = w.abs().amax((-2, -1))
    scale = torch.exp2(torch.frexp(largest).exponent.clamp(-1022, 1023).double())
    finite = largest.isfinite()
    w = torch.where(finite[..., None, None], w / scale[..., None, None], torch.ones_like(w))
    return w, torch.where(finite, scale, math.inf)


def times_up(value: Tensor, factor: Tensor | float) -> Tensor:
    """value·factor from above, for numbers of at least 0; the bound of a positive value is positive.

    The margin of 8 units covers the two roundings here and those of a square root in each of the two numbers. The
    smallest positive number is added for results below the normal range, where errors are not relative; it changes no
    other result.
    """
    product = value * factor * (1 + 8 * UNIT)
    return torch.where(value > 0, product + SMALLEST, product)


def sum_up(total: Tensor, terms: int) -> Tensor:
    """The exact sum from above, for the computed sum `total` of so many numbers of at least 0, in any order.

    Sums are exact below the normal range. A sum that is not a number (inf − inf, inf·0) has no finite bound: inf.
    """
    return torch.nan_to_num(total * (1 + 2 * max(terms, 1) * UNIT), nan=math.inf, posinf=math.inf)


def squared_frobenius(w: Tensor) -> Tensor:
    """‖W‖_F² (...) from above, for matrices (..., m, n) of moderate scale, real or complex."""
    return w.abs().square().sum((-2, -1)) * (1 + 4 * math.prod(w.shape[-2:]) * UNIT)
