"""The Triton kernels for distances at p = ∞ and below NEAR_FROM, and for their ranges."""

from __future__ import annotations

import triton
import triton.language as tl

from lipcert.kernels.gpu_powers import root_less_one, to_power
from lipcert.kernels.gpu_tiles import TINY, columns_of, larger, rows_of, sizes, starts


@triton.jit
def _sum_of_powers(x, w, n, inverse, zeros, p, c, WHOLE: tl.constexpr, BK: tl.constexpr):
    total = zeros
    for k0 in tl.range(0, n, BK, num_stages=3):
        total += tl.sum(to_power(sizes(x, w, k0, n, BK) * inverse, p, c, WHOLE), 0)
    return total


@triton.jit
def power_sums(
    x, w, y, B, m, n, p, c, WHOLE: tl.constexpr,
    IR: tl.constexpr, JR: tl.constexpr, IL: tl.constexpr, JL: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """y = ‖x - w‖_p, relative to the largest difference, or directly for a whole p whose powers stay in float32."""
    i, j = rows_of(tl.program_id(0), IR, IL), rows_of(tl.program_id(1), JR, JL)
    xs, ws = starts(x, i, B, n), starts(w, j, m, n)
    zeros = tl.zeros((IR, JR, IL, JL), tl.float32)
    top, total = zeros + 1.0, zeros
    relative = True
    if WHOLE > 0:
        total = _sum_of_powers(xs, ws, n, 1.0, zeros, p, c, WHOLE, BK)
        relative = (tl.min(total) < 1e-25) | (tl.max(total) > 1e35)
    if relative:
        top = zeros
        for k0 in tl.range(0, n, BK, num_stages=3):
            top = tl.maximum(top, tl.max(sizes(xs, ws, k0, n, BK), 0))
        inverse = tl.div_rn(zeros + 1.0, tl.maximum(top, TINY))
        total = _sum_of_powers(xs, ws, n, inverse, zeros, p, c, WHOLE, BK)
    if len(c) > 0:
        norm = top + top * root_less_one(total, p)
    elif WHOLE == 1:
        norm = top * total
    else:
        norm = top * tl.exp2(tl.log2(total) / p)
    inside = (i < B)[:, None, :, None] & (j < m)[None, :, None, :]
    at = i[:, None, :, None].to(tl.int64) * m + j[None, :, None, :]
    tl.store(y + at, tl.where(top < TINY, top, norm), mask=inside)


@triton.jit
def maxima(
    x, w, y, index, B, m, n, INDEXED: tl.constexpr,
    IR: tl.constexpr, JR: tl.constexpr, IL: tl.constexpr, JL: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """y = ‖x - w‖_∞ and the first column that attains it: first its step of BK columns, then the column itself."""
    i, j = rows_of(tl.program_id(0), IR, IL), rows_of(tl.program_id(1), JR, JL)
    xs, ws = starts(x, i, B, n), starts(w, j, m, n)
    top = tl.zeros((IR, JR, IL, JL), x.dtype.element_ty)
    step = tl.zeros((IR, JR, IL, JL), tl.int32)
    for k0 in tl.range(0, n, BK, num_stages=3):
        largest = tl.reduce(sizes(xs, ws, k0, n, BK), 0, larger)
        if INDEXED:
            step = tl.where(largest > top, k0, step)
        top = larger(top, largest)
    inside = (i < B)[:, None, :, None] & (j < m)[None, :, None, :]
    at = i[:, None, :, None].to(tl.int64) * m + j[None, :, None, :]
    tl.store(y + at, top, mask=inside)
    if INDEXED:
        first = step
        for back in range(1, BK + 1):
            k = step + BK - back
            a = tl.load(xs[:, None, :, None] + k, mask=k < n, other=0)
            b = tl.load(ws[None, :, None, :] + k, mask=k < n, other=0)
            first = tl.where(tl.abs(a - b) == top, k, first)
        tl.store(index + at, first, mask=inside)


@triton.jit
def ranges(
    low, high, w, lower, upper, B, m, n,
    IR: tl.constexpr, JR: tl.constexpr, IL: tl.constexpr, JL: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    i, j = rows_of(tl.program_id(0), IR, IL), rows_of(tl.program_id(1), JR, JL)
    lows, highs, ws = starts(low, i, B, n), starts(high, i, B, n), starts(w, j, m, n)
    least = tl.zeros((IR, JR, IL, JL), w.dtype.element_ty)
    most = least
    for k0 in tl.range(0, n, BK, num_stages=3):
        b = columns_of(ws, k0, n, BK)[:, None, :, None, :]
        below = columns_of(lows, k0, n, BK)[:, :, None, :, None] - b
        above = columns_of(highs, k0, n, BK)[:, :, None, :, None] - b
        least = larger(least, tl.reduce(larger(below, -above), 0, larger))
        most = larger(most, tl.reduce(larger(above, -below), 0, larger))
    inside = (i < B)[:, None, :, None] & (j < m)[None, :, None, :]
    at = i[:, None, :, None].to(tl.int64) * m + j[None, :, None, :]
    tl.store(lower + at, least, mask=inside)
    tl.store(upper + at, most, mask=inside)
