"""The Triton kernels for large p, where a number of `owner` matters to a group of rows of `other` only if it lies far
from their range. `owner` and `other` are those of `gpu_slopes`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lipcert.kernels.gpu_powers import power_near_one, resolution, root_less_one, with_sign
from lipcert.kernels.gpu_tiles import FUSED, TINY

GROUP = tl.constexpr(32)  # rows or columns that a warp handles together


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
    """A bit for each of the columns k in which a may differ from a number in its range by more than `reach`."""
    most = tl.maximum(tl.load(high + k, mask=k < n, other=0) - a, a - tl.load(low + k, mask=k < n, other=0))
    return tl.sum(tl.where(most > reach, 1 << tl.arange(0, GROUP), 0))


@triton.jit
def _lowest(bits):
    """The position of the lowest bit, and the bits without that bit."""
    bit = bits & -bits
    return ((bit.to(tl.float32).to(tl.int32, bitcast=True) >> 23) & 255) - 127, bits ^ bit


@triton.jit
def _near_sums(owner, columns, low, high, y, S, n, r_stride, s_stride, cut, p):
    """Replaces ‖other - owner‖_∞ in y by ‖other - owner‖_p, for a row of `owner` and a group of rows of `other`."""
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
            total += power_near_one((top - size) * inverse, p)
    tl.store(y, tl.where(top < TINY, top, top + top * root_less_one(total, p)), mask=inside)


@triton.jit
def _near_slopes(
    owner, columns, low, high, least, y, grad, g_owner, g_other, R, S, n, span, cut, floor, e, BOTH: tl.constexpr
):  # fmt: skip
    """The gradient to `span` columns of a row of `owner`, and to `other` if above `floor`. y and grad are (R, S)."""
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
                size = power_near_one((norm - tl.abs(d)) * inverse, e)
                slope = with_sign(size, d) * weight
                sums -= tl.where(lane == bit, tl.sum(slope), 0.0)
                if BOTH:
                    tl.atomic_add(g_other + s * n + at, slope, size > floor, sem="relaxed")
        tl.store(g_owner + k, sums, mask=k < n)


def _extents(matrix: Tensor) -> tuple[Tensor, Tensor]:
    rows, n = matrix.shape
    low, high = (matrix.new_empty(triton.cdiv(rows, GROUP.value), n) for _ in range(2))
    _extent[(len(low), triton.cdiv(n, 128))](matrix, low, high, rows, n, COLUMNS=128, **FUSED)
    return low, high


def near_maxima(x: Tensor, w: Tensor, y: Tensor, p: float) -> None:
    """Replaces ‖x - w‖_∞ in y by ‖x - w‖_p."""
    owner, other, y = (w, x, y) if len(w) >= len(x) else (x, w, y.T)
    (S, R), n = y.shape, x.shape[1]
    p, cut, _ = resolution(p, n)
    low, high = _extents(other)
    _near_sums[(R, len(low))](
        owner, other.T.contiguous(), low, high, y, S, n, y.stride(1), y.stride(0), cut, p, num_warps=1, **FUSED
    )


def near_gradients(
    owner: Tensor, other: Tensor, y: Tensor, grad: Tensor, p: float, both: bool
) -> tuple[Tensor, Tensor]:
    """The gradients for large p, as those of `gpu_slopes.gradients`."""
    (S, R), n = y.shape, owner.shape[1]
    g_owner, g_other = torch.empty_like(owner), torch.zeros_like(other) if both else other.new_empty(0)
    e, cut, floor = resolution(p - 1, n)
    span = triton.cdiv(n, 4 * GROUP.value) * GROUP.value
    _near_slopes[(R, triton.cdiv(n, span))](
        owner, other.T.contiguous(), *_extents(other), _extents(y.contiguous())[0], y.T.contiguous(),
        grad.T.contiguous(), g_owner, g_other, R, S, n, span, cut, floor, e, both, num_warps=1, **FUSED,
    )  # fmt: skip
    return g_owner, g_other
