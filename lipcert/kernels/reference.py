"""The kernels in PyTorch, for any device, float32 or float64, and every p: slow, and the reference for all others.

Differences are computed in blocks, which bounds the memory, and scaled by the largest difference of each pair of rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 2**18  # differences that are held at a time, in the second-level cache


def forward(x: Tensor, w: Tensor, p: float, indexed: bool) -> tuple[Tensor, Tensor]:
    y = x.new_empty(len(x), len(w))
    index = x.new_empty(y.shape if indexed else (0,), dtype=torch.int32)
    for i, j in _blocks(x, w):
        size = (x[i, None] - w[j]).abs_()
        largest, at = size.max(-1)
        if p == math.inf:
            y[i, j] = largest
        else:
            scale = largest.where(largest != 0, 1)
            y[i, j] = largest * size.div_(scale[..., None]).pow_(p).sum(-1).pow_(1 / p)
        if indexed:
            index[i, j] = at.int()
    return y, index


def backward(
    grad: Tensor, x: Tensor, w: Tensor, y: Tensor, index: Tensor, p: float, need_x: bool, need_w: bool
) -> tuple[Tensor, Tensor]:
    gx = x.new_zeros(x.shape if need_x else (0,))
    gw = w.new_zeros(w.shape if need_w else (0,))
    for i, j in _blocks(x, w):
        if p == math.inf:
            at = index[i, j].long()
            slope = (x[i].gather(1, at) - w[j].gather(1, at.T).T).sign_() * grad[i, j]
            if need_x:
                gx[i].scatter_add_(1, at, slope)
            if need_w:
                gw[j].scatter_add_(1, at.T, -slope.T)
        else:
            difference = x[i, None] - w[j]
            scale = y[i, j].where(y[i, j] != 0, 1)
            slope = (difference.abs() / scale[..., None]).pow_(p - 1).mul_(difference.sign_()).mul_(grad[i, j, None])
            if need_x:
                gx[i] += slope.sum(1)
            if need_w:
                gw[j] -= slope.sum(0)
    return gx, gw


def linf_bounds(low: Tensor, high: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    lower, upper = (low.new_empty(len(low), len(w)) for _ in range(2))
    for i, j in _blocks(low, w):
        below, above = low[i, None] - w[j], high[i, None] - w[j]
        upper[i, j] = torch.maximum(above, -below).amax(-1)
        lower[i, j] = torch.maximum(below, -above).amax(-1).clamp_(min=0)
    return lower, upper


def _blocks(x: Tensor, w: Tensor) -> Iterator[tuple[slice, slice]]:
    """Blocks of rows of x and rows of w with at most BLOCK differences, or of one pair."""
    rows = max(1, BLOCK // x.shape[1])
    for i in range(0, len(x), rows):
        some = slice(i, min(i + rows, len(x)))
        columns = max(1, rows // (some.stop - some.start))
        for j in range(0, len(w), columns):
            yield some, slice(j, j + columns)
