"""The Triton kernels, for CUDA: float32, and p = ∞ in float64. Float64 with a finite p goes to the reference.

They need Triton 3.3 or newer, for its tuples. They agree with the reference in Triton's interpreter, and have never
been timed on a device.

No tensor core computes these sums: the limit is the number of instructions, of which a lane issues one per clock.

1. A slope is computed once for both gradients: one of them is summed in registers, the other over a tile and then by
   atomics.
2. Powers with a small whole exponent are products. If a sum leaves float32's safe range, the block starts again as for
   other p.
3. Otherwise a pass of its own finds the largest difference first, and all powers are of ratios r to it. From p = 9 on
   only r near 1 matters: log2 r is a polynomial in 1 - r, fitted where rᵖ > 2⁻¹⁴, so that each power needs the special
   function unit only once, for exp2.
4. From p = NEAR_FROM on nearly all terms are below the resolution of float32, but hardly a tile has none above it. A
   weight, however, matters to 32 samples only if it is far from their range, which is tested first.

The shape alone chooses the tiles, and no timing does, so that a run repeats its numbers except for the order of
atomics. `torch.use_deterministic_algorithms` avoids atomics, and computes slopes twice where both gradients are needed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lipcert.kernels import reference
from lipcert.kernels.gpu_distances import maxima, power_sums, ranges
from lipcert.kernels.gpu_near import near_gradients, near_maxima
from lipcert.kernels.gpu_powers import logarithm, whole
from lipcert.kernels.gpu_slopes import gradients, scatter
from lipcert.kernels.gpu_tiles import tiles

NEAR_FROM = 128  # p


def forward(x: Tensor, w: Tensor, p: float, indexed: bool) -> tuple[Tensor, Tensor]:
    if x.dtype != torch.float32 and p != math.inf:
        return reference.forward(x, w, p, indexed)
    y = x.new_empty(len(x), len(w))
    index = x.new_empty(y.shape if indexed else (0,), dtype=torch.int32)
    grid, tile = tiles(x, w)
    with torch.cuda.device_of(x):
        if p < NEAR_FROM:
            power_sums[grid](x, w, y, *y.shape, x.shape[1], p, logarithm(p, p), whole(p), **tile)
        else:
            maxima[grid](x, w, y, index, *y.shape, x.shape[1], indexed, **tile)
            if p != math.inf:
                near_maxima(x, w, y, p)
    return y, index


def backward(
    grad: Tensor, x: Tensor, w: Tensor, y: Tensor, index: Tensor, p: float, need_x: bool, need_w: bool
) -> tuple[Tensor, Tensor]:
    if p == math.inf:
        return scatter(grad, x, w, index, need_x, need_w)
    if x.dtype != torch.float32:
        return reference.backward(grad, x, w, y, index, p, need_x, need_w)
    gx, gw = x.new_empty(0), w.new_empty(0)
    compute = gradients if p < NEAR_FROM else near_gradients
    with torch.cuda.device_of(x):
        if need_x and need_w and not torch.are_deterministic_algorithms_enabled():
            if len(w) >= len(x):
                gw, gx = compute(w, x, y, grad, p, True)
            else:
                gx, gw = compute(x, w, y.T, grad.T, p, True)
        else:
            if need_w:
                gw, _ = compute(w, x, y, grad, p, False)
            if need_x:
                gx, _ = compute(x, w, y.T, grad.T, p, False)
    return gx, gw


def linf_bounds(low: Tensor, high: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    lower, upper = (low.new_empty(len(low), len(w)) for _ in range(2))
    grid, tile = tiles(low, w)
    with torch.cuda.device_of(low):
        ranges[grid](low, high, w, lower, upper, *lower.shape, low.shape[1], **tile)
    return lower, upper
