"""The Triton kernel for gradients below NEAR_FROM, and the gradients at p = ∞.

Gradients treat x and w alike: `owner` (R, n) has the rows whose gradients are summed in registers, and `other` (S, n)
the rows that are visited one after the other. Derivatives are those of ‖other - owner‖_p.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lipcert.kernels.gpu_powers import logarithm, to_power, whole, with_sign
from lipcert.kernels.gpu_tiles import FUSED, TINY, rows_of

SLOPES = {"BS": 4, "RR": 8, "KR": 8, "RL": 8, "KL": 4, "maxnreg": 128} | FUSED  # 64 rows of the owner, 32 columns


@triton.jit
def _slopes(
    owner, other, inverse, grad, g_owner, g_other, R, S, n, r_stride, s_stride, e, c,
    WHOLE: tl.constexpr, BOTH: tl.constexpr,
    BS: tl.constexpr, RR: tl.constexpr, KR: tl.constexpr, RL: tl.constexpr, KL: tl.constexpr,
):  # fmt: skip
    """Tiles (BS, RR, KR, RL, KL) of rows of `other`, rows of `owner`, and columns. `inverse` is 1/distance."""
    r = tl.program_id(0) * (RR * RL) + tl.arange(0, RR)[:, None] + tl.arange(0, RL)[None, :] * RR
    k = rows_of(tl.program_id(1), KR, KL)
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
            slope = to_power(difference * scale, e, c, WHOLE)
        else:
            slope = with_sign(to_power(tl.abs(difference) * scale, e, c, WHOLE), difference)
        slope *= weight
        sums -= tl.sum(slope, 0)
        if BOTH:
            tl.atomic_add(g_other + s.to(tl.int64) * n + k[None], tl.sum(tl.sum(slope, 1), 2), there, sem="relaxed")
    tl.store(g_owner + at, sums, mask=inside)


def gradients(owner: Tensor, other: Tensor, y: Tensor, grad: Tensor, p: float, both: bool) -> tuple[Tensor, Tensor]:
    """The gradients to the owner and, if `both`, to the other. y and grad are (S, R)."""
    (S, R), n = y.shape, owner.shape[1]
    g_owner, g_other = torch.empty_like(owner), torch.zeros_like(other) if both else other.new_empty(0)
    inverse, grad = y.clamp(min=TINY.value).reciprocal_(), grad.where(y >= TINY.value, 0)
    _slopes[(triton.cdiv(R, SLOPES["RR"] * SLOPES["RL"]), triton.cdiv(n, SLOPES["KR"] * SLOPES["KL"]))](
        owner, other, inverse, grad, g_owner, g_other, R, S, n, grad.stride(1), grad.stride(0),
        p - 1, logarithm(p - 1, p), whole(p - 1), both, **SLOPES,
    )  # fmt: skip
    return g_owner, g_other


def scatter(grad: Tensor, x: Tensor, w: Tensor, index: Tensor, need_x: bool, need_w: bool) -> tuple[Tensor, Tensor]:
    """The gradients at p = ∞, where that of a pair goes to one entry of x and one of w."""
    at = index.long()
    slope = x.gather(1, at).sub_(w.gather(1, at.T).T).sign_().mul_(grad)
    gx = torch.zeros_like(x).scatter_add_(1, at, slope) if need_x else x.new_empty(0)
    gw = torch.zeros_like(w).scatter_add_(1, at.T, slope.neg_().T) if need_w else w.new_empty(0)
    return gx, gw
