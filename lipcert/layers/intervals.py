"""What the interval rules of layers share.

A layer's rule `interval(low, high, unit)` returns the box of its outputs over the box of its inputs, rounded outward by
what it rounds in an arithmetic of unit roundoff `unit`; unit 0 rounds nothing outward: training.
"""

from __future__ import annotations

import torch
from torch import Tensor


def outward(low: Tensor, high: Tensor, relative: float) -> tuple[Tensor, Tensor]:
    """The box whose ends were computed with this relative error each, made to hold what they stand for.

    Twice the error, for the end's own rounding, and a denormal for what underflowed.
    """
    if not relative:
        return low, high
    tiny = torch.finfo(low.dtype).tiny
    return low - (2 * relative * low.abs() + tiny), high + (2 * relative * high.abs() + tiny)


def affine(low: Tensor, high: Tensor, apply, magnitudes, unit: float, roundings: int) -> tuple[Tensor, Tensor]:
    """The box behind an affine map: `apply(x)` computes it, `magnitudes(r)` is |W|·r (Gowal et al., ICCV 2019, §3).

    Centre ± |W|·radius. Each of its `roundings` operations an entry errs relative to |W|·max(|low|, |high|) + |bias|.
    """
    centre, radius = (low + high) / 2, (high - low) / 2
    middle, reach = apply(centre), magnitudes(radius)
    if unit:
        zero = torch.zeros_like(centre[:1])
        size = magnitudes(torch.maximum(low.abs(), high.abs())) + apply(zero).abs()
        reach = reach + 16 * (roundings + 4) * unit * size + torch.finfo(low.dtype).tiny
    return middle - reach, middle + reach
