"""Tiles of the Triton kernels: axes (BK, IR, JR, IL, JL) for columns, then rows of x and of w.

There are five axes because they fix the layout: the lanes of a warp take the last two, the warps the third, and a
thread all of the others.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

FUSED = {"enable_fp_fusion": True}  # a product and a sum in one instruction
WIDE = {"IR": 4, "JR": 16, "IL": 8, "JL": 4, "BK": 8, "maxnreg": 128} | FUSED  # 32 rows of x, 64 of w
NARROW = {
    "IR": 1,
    "JR": 4,
    "IL": 8,
    "JL": 4,
    "BK": 16,
} | FUSED  # 8 rows of x and 16 of w: for layers of few units, and float64
ENOUGH = 132  # programs that keep the multiprocessors busy
TINY = tl.constexpr(2.0**-126)  # a smaller distance is the largest difference, and its gradient is 0


@triton.jit
def rows_of(block, R: tl.constexpr, L: tl.constexpr):
    """The numbers of the rows of a block, (R, L)."""
    return block * (R * L) + tl.arange(0, R)[:, None] * L + tl.arange(0, L)[None, :]


@triton.jit
def starts(matrix, row, rows, n):
    """Pointers to rows; beyond the last row, to the last row."""
    return matrix + tl.minimum(row, rows - 1).to(tl.int64) * n


@triton.jit
def columns_of(start, k0, n, BK: tl.constexpr):
    """BK columns from k0 of the rows at `start`, (BK, R, L), with zeros beyond the last column."""
    k = (k0 + tl.arange(0, BK))[:, None, None]
    return tl.load(start[None] + k, mask=k < n, other=0)


@triton.jit
def sizes(x, w, k0, n, BK: tl.constexpr):
    return tl.abs(columns_of(x, k0, n, BK)[:, :, None, :, None] - columns_of(w, k0, n, BK)[:, None, :, None, :])


@triton.jit
def larger(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


def tiles(x: Tensor, w: Tensor) -> tuple[tuple[int, int], dict[str, int]]:
    """The grid and the tile for all pairs of rows."""

    def grid(tile: dict[str, int]) -> tuple[int, int]:
        return triton.cdiv(len(x), tile["IR"] * tile["IL"]), triton.cdiv(len(w), tile["JR"] * tile["JL"])

    tile = WIDE if math.prod(grid(WIDE)) >= ENOUGH and x.dtype == torch.float32 else NARROW
    return grid(tile), tile
