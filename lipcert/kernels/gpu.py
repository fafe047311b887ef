"""The Triton kernels, for CUDA: float32, and p = ∞ in float64. Float64 with a finite p goes to the reference.

Triton 3.3 or newer is needed, for its tuples.

No tensor core computes these sums: the bound is the issue of instructions, one a clock and lane, 33 T/s on an H200 (132
SMs × 128 lanes × 1.98 GHz), of which the SFU takes 4.2 T/s. The 6×5120 CIFAR net at batch 512 has 62 G pairs of
coordinates: an instruction for each of them costs 1.9 ms, one of the SFU 15 ms. These are the instructions of the inner
loops, loads and indices included, counted in what Triton 3.9 makes for sm_90, and the time of an iteration that uses
every slot. NONE OF THIS HAS BEEN TIMED: expect to use 70 to 85 %.

    p                 forward                      backward, to x and w      iteration
    1, 2, …, 8        5.0 (p = 8)                  10.8 (p = 8)              29 ms
    other, below 9    2.5 + 32.5                   37                        134 ms
    9 to 16           2.5 + 14.5                   19                        67 ms
    16 to 32          2.5 + 11.5                   16                        56 ms
    32 to 128         2.5 + 8.5 (1 of the SFU)     13 (1 of the SFU)         44 ms
    128 and more      2.5 + 1.2 to 3.2             2.7 to 6                  12 to 22 ms, by the data
    ∞                 2.8                          a scatter                 5 ms and the scatter

Meanwhile 0.2 to 0.3 bytes a coordinate come from the second cache: 2 to 4 ms a pass.

1. A slope is computed once for both gradients: one is summed in registers, the other over a tile and then by atomics.
2. Small whole powers are products. If a sum leaves float32's safe range, the block starts again as for other p.
3. Otherwise the largest difference comes first, in a pass of its own (the 2.5), and all powers are of ratios r to it.
   From p = 9 on only r near 1 matters: log2 r is a polynomial in 1 - r, fitted where rᵖ > 2⁻¹⁴, and `ex2` alone is left
   to the SFU. With `lg2` there too, three passes would take 89 ms.
4. From p = 128 on nearly all terms are below resolution, but hardly a tile has none above. A weight, however, matters
   to 32 samples only if it is far from their range. This test takes 0.8 instructions forward and 2.2 backward and keeps
   7 % of the weights at p = 128, 2 % at p = 1000, if weights and inputs are Gaussian and equally wide, and about 1 % if
   weights are twice as wide. Were all kept, it would be three to four times slower than 3.

The shape alone decides upon tiles, not a stopwatch, so that a run repeats its numbers but for the order of atomics.
With `torch.use_deterministic_algorithms` there are none, and a backward pass costs 1.6 times as much. Tiles have five
axes because that fixes their layout: a warp's lanes take the last two, the warps the third, a thread all of the others.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from lipcert.kernels import reference

FUSED = {"enable_fp_fusion": True}  # products and sums, in one instruction
WIDE = {"IR": 4, "JR": 16, "IL": 8, "JL": 4, "BK": 8, "maxnreg": 128} | FUSED  # 32 rows of x, 64 of w
NARROW = {"IR": 1, "JR": 4, "IL": 8, "JL": 4, "BK": 16} | FUSED  # 8 and 16: layers of few units, and float64
SLOPES = {"BS": 4, "RR": 8, "KR": 8, "RL": 8, "KL": 4, "maxnreg": 128} | FUSED  # 64 rows of the owner, 32 columns
ENOUGH = 132  # programs to keep the multiprocessors busy
NEAR_FROM = 128  # p
GROUP = tl.constexpr(32)  # rows, or columns, that a warp handles together
TINY = tl.constexpr(2.0**-126)  # smaller distances are given as largest differences, with gradient 0


def forward(x: Tensor, w: Tensor, p: float, indexed: bool) -> tuple[Tensor, Tensor]:
    if x.dtype != torch.float32 and p != math.inf:
        return reference.forward(x, w, p, indexed)
    y = x.new_empty(len(x), len(w))
    index = x.new_empty(y.shape if indexed else (0,), dtype=torch.int32)
    grid, tile = _tiles(x, w)
    with torch.cuda.device_of(x):
        if p < NEAR_FROM:
            _sums[grid](x, w, y, *y.shape, x.shape[1], p, _logarithm(p, p), _whole(p), **tile)
        else:
            _maxima[grid](x, w, y, index, *y.shape, x.shape[1], indexed, **tile)
            if p != math.inf:
                _near_maxima(x, w, y, p)
    return y, index


def backward(
    grad: Tensor, x: Tensor, w: Tensor, y: Tensor, index: Tensor, p: float, need_x: bool, need_w: bool
) -> tuple[Tensor, Tensor]:
    if p == math.inf:
        return _scatter(grad, x, w, index, need_x, need_w)
    if x.dtype != torch.float32:
        return reference.backward(grad, x, w, y, index, p, need_x, need_w)
    gx, gw = x.new_empty(0), w.new_empty(0)
    gradients = _gradients if p < NEAR_FROM else _near_gradients
    with torch.cuda.device_of(x):
        if need_x and need_w and not torch.are_deterministic_algorithms_enabled():
            if len(w) >= len(x):
                gw, gx = gradients(w, x, y, grad, p, True)
            else:
                gx, gw = gradients(x, w, y.T, grad.T, p, True)
        else:
            if need_w:
                gw, _ = gradients(w, x, y, grad, p, False)
            if need_x:
                gx, _ = gradients(x, w, y.T, grad.T, p, False)
    return gx, gw


def linf_bounds(low: Tensor, high: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    lower, upper = (low.new_empty(len(low), len(w)) for _ in range(2))
    grid, tile = _tiles(low, w)
    with torch.cuda.device_of(low):
        _ranges[grid](low, high, w, lower, upper, *lower.shape, low.shape[1], **tile)
    return lower, upper


# Tiles: axes (BK, IR, JR, IL, JL) for columns, then rows of x and of w.


@triton.jit
def _rows(block, R: tl.constexpr, L: tl.constexpr):
    """The numbers of the rows of a block, (R, L)."""
    return block * (R * L) + tl.arange(0, R)[:, None] * L + tl.arange(0, L)[None, :]


@triton.jit
def _starts(matrix, row, rows, n):
    """Pointers to rows; beyond the last, to that one again."""
    return matrix + tl.minimum(row, rows - 1).to(tl.int64) * n


@triton.jit
def _columns(start, k0, n, BK: tl.constexpr):
    """BK columns of the rows that start there, (BK, R, L), with zeros beyond the last."""
    k = (k0 + tl.arange(0, BK))[:, None, None]
    return tl.load(start[None] + k, mask=k < n, other=0)


@triton.jit
def _sizes(x, w, k0, n, BK: tl.constexpr):
    return tl.abs(_columns(x, k0, n, BK)[:, :, None, :, None] - _columns(w, k0, n, BK)[:, None, :, None, :])


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _power(r, e, c, WHOLE: tl.constexpr):
    """rᵉ for 0 <= r <= 1; for any r by products if WHOLE = e >= 0."""
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
        logarithm = c[0]
        for i in tl.static_range(1, len(c)):
            logarithm = logarithm * z + c[i]
        power = tl.exp2(logarithm * z)
    else:
        power = tl.exp2(e * tl.log2(r))
    return power


@triton.jit
def _power_near_one(z, e):
    """(1 - z)ᵉ to 3e-5 where that is above 2⁻²⁸ for e >= 127, and smaller beyond: the logarithm's series."""
    series = 1.0 + z * (1 / 2 + z * (1 / 3 + z * (1 / 4 + z * (1 / 5 + z * (1 / 6)))))
    return tl.exp2(-1.4426950408889634 * e * (z * series))


@triton.jit
def _exponential_less_one(t):
    series = 1.0
    for i in tl.static_range(9, 1, -1):
        series = 1.0 + series * t * (1 / i)
    return t * series


@triton.jit
def _root(total, p):
    """The p-th root of a sum, p >= 9, less one: exp2 alone would lose digits that the gradient magnifies by p."""
    return _exponential_less_one(tl.log2(total) * (0.6931471805599453 / p))


@triton.jit
def _sum_of_powers(x, w, n, inverse, zeros, p, c, WHOLE: tl.constexpr, BK: tl.constexpr):
    total = zeros
    for k0 in tl.range(0, n, BK, num_stages=3):
        total += tl.sum(_power(_sizes(x, w, k0, n, BK) * inverse, p, c, WHOLE), 0)
    return total


@triton.jit
def _sums(
    x, w, y, B, m, n, p, c, WHOLE: tl.constexpr,
    IR: tl.constexpr, JR: tl.constexpr, IL: tl.constexpr, JL: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """y = ‖x - w‖_p relative to the largest difference; for whole p without it, where no power leaves float32."""
    i, j = _rows(tl.program_id(0), IR, IL), _rows(tl.program_id(1), JR, JL)
    xs, ws = _starts(x, i, B, n), _starts(w, j, m, n)
    zeros = tl.zeros((IR, JR, IL, JL), tl.float32)
    top, total = zeros + 1.0, zeros
    relative = True
    if WHOLE > 0:
        total = _sum_of_powers(xs, ws, n, 1.0, zeros, p, c, WHOLE, BK)
        relative = (tl.min(total) < 1e-25) | (tl.max(total) > 1e35)
    if relative:
        top = zeros
        for k0 in tl.range(0, n, BK, num_stages=3):
            top = tl.maximum(top, tl.max(_sizes(xs, ws, k0, n, BK), 0))
        inverse = tl.div_rn(zeros + 1.0, tl.maximum(top, TINY))
        total = _sum_of_powers(xs, ws, n, inverse, zeros, p, c, WHOLE, BK)
    if len(c) > 0:
        norm = top + top * _root(total, p)
    elif WHOLE == 1:
        norm = top * total
    else:
        norm = top * tl.exp2(tl.log2(total) / p)
    inside = (i < B)[:, None, :, None] & (j < m)[None, :, None, :]
    at = i[:, None, :, None].to(tl.int64) * m + j[None, :, None, :]
    tl.store(y + at, tl.where(top < TINY, top, norm), mask=inside)


@triton.jit
def _maxima(
    x, w, y, index, B, m, n, INDEXED: tl.constexpr,
    IR: tl.constexpr, JR: tl.constexpr, IL: tl.constexpr, JL: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """y = ‖x - w‖_∞ and the first column that attains it: the step of BK columns in passing, then the column."""
    i, j = _rows(tl.program_id(0), IR, IL), _rows(tl.program_id(1), JR, JL)
    xs, ws = _starts(x, i, B, n), _starts(w, j, m, n)
    top = tl.zeros((IR, JR, IL, JL), x.dtype.element_ty)
    step = tl.zeros((IR, JR, IL, JL), tl.int32)
    for k0 in tl.range(0, n, BK, num_stages=3):
        largest = tl.reduce(_sizes(xs, ws, k0, n, BK), 0, _larger)
        if INDEXED:
            step = tl.where(largest > top, k0, step)
        top = _larger(top, largest)
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
def _ranges(
    low, high, w, lower, upper, B, m, n,
    IR: tl.constexpr, JR: tl.constexpr, IL: tl.constexpr, JL: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    i, j = _rows(tl.program_id(0), IR, IL), _rows(tl.program_id(1), JR, JL)
    lows, highs, ws = _starts(low, i, B, n), _starts(high, i, B, n), _starts(w, j, m, n)
    least = tl.zeros((IR, JR, IL, JL), w.dtype.element_ty)
    most = least
    for k0 in tl.range(0, n, BK, num_stages=3):
        b = _columns(ws, k0, n, BK)[:, None, :, None, :]
        below = _columns(lows, k0, n, BK)[:, :, None, :, None] - b
        above = _columns(highs, k0, n, BK)[:, :, None, :, None] - b
        least = _larger(least, tl.reduce(_larger(below, -above), 0, _larger))
        most = _larger(most, tl.reduce(_larger(above, -below), 0, _larger))
    inside = (i < B)[:, None, :, None] & (j < m)[None, :, None, :]
    at = i[:, None, :, None].to(tl.int64) * m + j[None, :, None, :]
    tl.store(lower + at, least, mask=inside)
    tl.store(upper + at, most, mask=inside)


@triton.jit
def _with_sign(size, d):
    sign = d.to(tl.int32, bitcast=True) & -2147483648
    return (size.to(tl.int32, bitcast=True) | sign).to(tl.float32, bitcast=True)


# Gradients treat x and w alike: `owner` (R, n) has the rows whose gradients are summed in registers, `other` (S, n)
# passes by. Derivatives are those of ‖other - owner‖_p.


@triton.jit
def _slopes(
    owner, other, inverse, grad, g_owner, g_other, R, S, n, r_stride, s_stride, e, c,
    WHOLE: tl.constexpr, BOTH: tl.constexpr,
    BS: tl.constexpr, RR: tl.constexpr, KR: tl.constexpr, RL: tl.constexpr, KL: tl.constexpr,
):  # fmt: skip
    """Tiles (BS, RR, KR, RL, KL) of `other`'s rows, `owner`'s rows and columns. `inverse` is that of the distance."""
    r = tl.program_id(0) * (RR * RL) + tl.arange(0, RR)[:, None] + tl.arange(0, RL)[None, :] * RR
    k = _rows(tl.program_id(1), KR, KL)
    at = r[:, None, :, None].to(tl.int64) * n + k[None, :, None, :]
    inside = (r < R)[:, None, :, None] & (k < n)[None, :, None, :]
    a = tl.load(owner + at, mask=inside, other=0)
    sums = tl.zeros((RR, KR, RL, KL), tl.float32)
    for s0 in tl.range(0, S, BS, num_stages=3):
        s = (s0 + tl.arange(0, BS))[:, None, None]
        there = (s < S) & (k < n)[None]
        pairs = (s < S) & (r < R)[None]
        pair = s.to(tl.int64) * s_stride + r[None].to(tl.int64) * r_stride
        b = tl.load(other + s.to(tl.int64) * n + k[None], mask=there, other=0)
        weight = tl.load(grad + pair, mask=pairs, other=0)[:, :, None, :, None]
        difference = b[:, None, :, None, :] - a[None]
        scale = tl.load(inverse + pair, mask=pairs, other=0)[:, :, None, :, None]
        if WHOLE % 2 == 1 and WHOLE > 0:
            slope = _power(difference * scale, e, c, WHOLE)
        else:
            slope = _with_sign(_power(tl.abs(difference) * scale, e, c, WHOLE), difference)
        slope *= weight
        sums -= tl.sum(slope, 0)
        if BOTH:
            tl.atomic_add(g_other + s.to(tl.int64) * n + k[None], tl.sum(tl.sum(slope, 1), 2), there, sem="relaxed")
    tl.store(g_owner + at, sums, mask=inside)


# Large p. A number of `owner` can matter for a group of rows of `other` only if it lies far from their range.


@triton.jit
def _extent(matrix, low, high, rows, n, COLUMNS: tl.constexpr):
    """The range (groups, n) of every column of a matrix over each group of its rows."""
    group = tl.program_id(0)
    row = tl.minimum(group * GROUP + tl.arange(0, GROUP), rows - 1).to(tl.int64)
    k = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    tile = tl.load(matrix + row[:, None] * n + k[None, :], mask=(k < n)[None, :], other=0)
    tl.store(low + group.to(tl.int64) * n + k, tl.min(tile, 0), mask=k < n)
    tl.store(high + group.to(tl.int64) * n + k, tl.max(tile, 0), mask=k < n)


@triton.jit
def _far(a, low, high, k, n, reach):
    """A bit for each of the columns k where a difference between a and its range may exceed `reach`."""
    most = tl.maximum(tl.load(high + k, mask=k < n, other=0) - a, a - tl.load(low + k, mask=k < n, other=0))
    return tl.sum(tl.where(most > reach, 1 << tl.arange(0, GROUP), 0))


@triton.jit
def _lowest(bits):
    """The position of the lowest bit, and the bits without it."""
    bit = bits & -bits
    return ((bit.to(tl.float32).to(tl.int32, bitcast=True) >> 23) & 255) - 127, bits ^ bit


@triton.jit
def _near_sums(owner, columns, low, high, y, S, n, r_stride, s_stride, cut, p):
    """Turns ‖other - owner‖_∞ in y into ‖other - owner‖_p: a row of `owner`, a group of `other`'s, given by columns."""
    r, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    s = group * GROUP + tl.arange(0, GROUP)
    inside, s = s < S, tl.minimum(s, S - 1).to(tl.int64)
    y += r * r_stride + s * s_stride
    top = tl.load(y)
    owner, columns, low, high = owner + r * n, columns + s, low + group * n, high + group * n
    reach = cut * tl.min(top)
    inverse = 1.0 / tl.maximum(top, TINY)
    total = tl.zeros((GROUP,), tl.float32)
    for k0 in range(0, n, GROUP):
        k = k0 + tl.arange(0, GROUP)
        bits = _far(tl.load(owner + k, mask=k < n, other=0), low, high, k, n, reach)
        while bits != 0:
            bit, bits = _lowest(bits)
            at = (k0 + bit).to(tl.int64)
            size = tl.abs(tl.load(columns + at * S) - tl.load(owner + at))
            total += _power_near_one((top - size) * inverse, p)
    tl.store(y, tl.where(top < TINY, top, top + top * _root(total, p)), mask=inside)


@triton.jit
def _near_slopes(
    owner, columns, low, high, least, y, grad, g_owner, g_other, R, S, n, span, cut, floor, e, BOTH: tl.constexpr
):  # fmt: skip
    """The gradient to `span` columns of a row of `owner`; to `other`, what exceeds `floor`. y and grad are (R, S)."""
    r, lane = tl.program_id(0).to(tl.int64), tl.arange(0, GROUP)
    first = tl.program_id(1) * span
    owner, g_owner, y, grad = owner + r * n, g_owner + r * n, y + r * S, grad + r * S
    for k0 in range(first, tl.minimum(n, first + span), GROUP):
        k = k0 + lane
        a = tl.load(owner + k, mask=k < n, other=0)
        sums = tl.zeros((GROUP,), tl.float32)
        for group in range(tl.cdiv(S, GROUP)):
            s = group * GROUP + lane
            inside, s = s < S, tl.minimum(s, S - 1).to(tl.int64)
            norm = tl.maximum(tl.load(y + s), TINY)
            weight = tl.where(inside, tl.load(grad + s), 0.0)
            inverse = 1.0 / norm
            bits = _far(a, low + group * n, high + group * n, k, n, cut * tl.load(least + group * R + r))
            while bits != 0:
                bit, bits = _lowest(bits)
                at = (k0 + bit).to(tl.int64)
                d = tl.load(columns + s + at * S) - tl.load(owner + at)
                size = _power_near_one((norm - tl.abs(d)) * inverse, e)
                slope = _with_sign(size, d) * weight
                sums -= tl.where(lane == bit, tl.sum(slope), 0.0)
                if BOTH:
                    tl.atomic_add(g_other + s * n + at, slope, size > floor, sem="relaxed")
        tl.store(g_owner + k, sums, mask=k < n)


def _tiles(x: Tensor, w: Tensor) -> tuple[tuple[int, int], dict[str, int]]:
    """Grid and tile for all pairs of rows."""

    def grid(tile: dict[str, int]) -> tuple[int, int]:
        return triton.cdiv(len(x), tile["IR"] * tile["IL"]), triton.cdiv(len(w), tile["JR"] * tile["JL"])

    tile = WIDE if math.prod(grid(WIDE)) >= ENOUGH and x.dtype == torch.float32 else NARROW
    return grid(tile), tile


def _whole(e: float) -> int:
    """e if its powers are taken by products, otherwise -1."""
    return int(e) if e in range(9) else -1


@lru_cache
def _logarithm(e: float, p: float) -> tuple[float, ...]:
    """c with rᵉ = 2^(c₀ zᵈ + … + c_{d-1} z), z = 1 - r, to 1e-4 (rᵖ + 2⁻¹⁴); empty for p < 9."""
    if p < 9:
        return ()
    degrees = np.arange(4 if p >= 32 else 7 if p >= 16 else 10, 0, -1)
    bits = np.linspace(0.1, 40, 200)  # -log2 rᵖ
    z = -np.expm1(-bits * math.log(2) / p)
    weight = np.exp2(-bits * e / p) / (np.exp2(-bits) + 2.0**-14)
    c, *_ = np.linalg.lstsq(z[:, None] ** degrees * weight[:, None], -bits * e / p * weight, rcond=None)
    return tuple(c.tolist())


def _resolution(e: float, n: int) -> tuple[float, float, float]:
    """(e, cut, floor): rᵉ < floor for r < cut, and n such terms add less than 2⁻¹⁶ to a sum of at least 1."""
    e, floor = min(e, 1e30), 2.0**-16 / n
    return e, min(floor ** (1 / e), 1 - 2.0**-20), floor


def _extents(matrix: Tensor) -> tuple[Tensor, Tensor]:
    rows, n = matrix.shape
    low, high = (matrix.new_empty(triton.cdiv(rows, GROUP.value), n) for _ in range(2))
    _extent[(len(low), triton.cdiv(n, 128))](matrix, low, high, rows, n, COLUMNS=128, **FUSED)
    return low, high


def _near_maxima(x: Tensor, w: Tensor, y: Tensor, p: float) -> None:
    """Turns ‖x - w‖_∞ in y into ‖x - w‖_p."""
    owner, other, y = (w, x, y) if len(w) >= len(x) else (x, w, y.T)
    (S, R), n = y.shape, x.shape[1]
    p, cut, _ = _resolution(p, n)
    low, high = _extents(other)
    _near_sums[(R, len(low))](
        owner, other.T.contiguous(), low, high, y, S, n, y.stride(1), y.stride(0), cut, p, num_warps=1, **FUSED
    )


def _near_gradients(
    owner: Tensor, other: Tensor, y: Tensor, grad: Tensor, p: float, both: bool
) -> tuple[Tensor, Tensor]:
    """As `_gradients`."""
    (S, R), n = y.shape, owner.shape[1]
    g_owner, g_other = torch.empty_like(owner), torch.zeros_like(other) if both else other.new_empty(0)
    e, cut, floor = _resolution(p - 1, n)
    span = triton.cdiv(n, 4 * GROUP.value) * GROUP.value
    _near_slopes[(R, triton.cdiv(n, span))](
        owner, other.T.contiguous(), *_extents(other), _extents(y.contiguous())[0], y.T.contiguous(),
        grad.T.contiguous(), g_owner, g_other, R, S, n, span, cut, floor, e, both, num_warps=1, **FUSED,
    )  # fmt: skip
    return g_owner, g_other


def _gradients(owner: Tensor, other: Tensor, y: Tensor, grad: Tensor, p: float, both: bool) -> tuple[Tensor, Tensor]:
    """The gradients to the owner and, if `both`, to the other; y and grad are (S, R)."""
    (S, R), n = y.shape, owner.shape[1]
    g_owner, g_other = torch.empty_like(owner), torch.zeros_like(other) if both else other.new_empty(0)
    inverse, grad = y.clamp(min=TINY.value).reciprocal_(), grad.where(y >= TINY.value, 0)
    _slopes[(triton.cdiv(R, SLOPES["RR"] * SLOPES["RL"]), triton.cdiv(n, SLOPES["KR"] * SLOPES["KL"]))](
        owner, other, inverse, grad, g_owner, g_other, R, S, n, grad.stride(1), grad.stride(0),
        p - 1, _logarithm(p - 1, p), _whole(p - 1), both, **SLOPES,
    )  # fmt: skip
    return g_owner, g_other


def _scatter(grad: Tensor, x: Tensor, w: Tensor, index: Tensor, need_x: bool, need_w: bool) -> tuple[Tensor, Tensor]:
    """The gradients for p = ∞: each pair's goes to one entry of either."""
    at = index.long()
    slope = x.gather(1, at).sub_(w.gather(1, at.T).T).sign_().mul_(grad)
    gx = torch.zeros_like(x).scatter_add_(1, at, slope) if need_x else x.new_empty(0)
    gw = torch.zeros_like(w).scatter_add_(1, at.T, slope.neg_().T) if need_w else w.new_empty(0)
    return gx, gw
