"""Splitting and reconvergence without expansion (Qian & Wegman, ICLR 2019, appendix A.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lipcert.kernels.whole import kept_whole


@kept_whole("split_branches(Tensor x, Tensor first, Tensor second) -> (Tensor, Tensor)")
def split_branches(x: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    return first * x, second * x


@kept_whole("merge_branches(Tensor x, Tensor y, Tensor first, Tensor second) -> Tensor")
def merge_branches(x: Tensor, y: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return first * x + second * y


class Residual(nn.Module):
    """y = t_m·shortcut(t_s·x) + √(1−t_m²)·body(√(1−t_s²)·x), nonexpansive if `body` and `shortcut` are (eq. 9, 10).

    t = cos θ with a trainable θ: one number for the block, one per channel if `channels` is given, or one per entry if
    the `sides` of the image are given too. Each entry is divided by itself: (t·x)² + (1−t²)·x² = x². The split and the
    merge share one t unless `out_channels` or `out_sides` differ from `channels` and `sides`. Without the scaling of
    the split, as in a well-known re-implementation, a block is only √2-Lipschitz.
    """

    def __init__(
        self,
        body: nn.Module,
        shortcut: nn.Module | None = None,
        t: float = math.sqrt(0.5),
        channels: int | None = None,
        out_channels: int | None = None,
        sides: Sequence[int] = (1, 1),
        out_sides: Sequence[int] | None = None,
    ):
        super().__init__()
        if not 0 <= t <= 1:
            raise ValueError(f"`t` must lie in [0, 1], got {t}")
        self.body, self.shortcut = body, shortcut or nn.Identity()
        split = (channels, *sides) if channels else ()
        self.split_angle = nn.Parameter(torch.full(split, math.acos(t)))
        self.merge_angle = None
        merge = (out_channels or channels, *(out_sides or sides)) if channels else ()
        if merge != split:
            self.merge_angle = nn.Parameter(torch.full(merge, math.acos(t)))

    def forward(self, x: Tensor) -> Tensor:
        split = self.split_angle
        merge = split if self.merge_angle is None else self.merge_angle
        one, other = split_branches(x, split.cos(), split.sin())
        return merge_branches(self.shortcut(one), self.body(other), merge.cos(), merge.sin())


class ConvexResidual(nn.Module):
    """y = a·shortcut(x) + (1 − a)·body(x), a in [0, 1] trainable (Parseval, eq. 11): nonexpansive in any l_p where
    `body` and `shortcut` are.

    a is one number for the block. One per channel would expand in l2: with a = 1 in the first channel and 0 in the
    second, y = (shortcut(x)₁, body(x)₂) moves by up to √2.
    """

    def __init__(self, body: nn.Module, a: float = 0.5, shortcut: nn.Module | None = None):
        super().__init__()
        if not 0 < a < 1:
            raise ValueError(f"`a` must lie in (0, 1), got {a}")
        self.body, self.shortcut = body, shortcut or nn.Identity()
        self.logit = nn.Parameter(torch.tensor(math.log(a / (1 - a))))

    def forward(self, x: Tensor) -> Tensor:
        a = self.logit.sigmoid()
        return a * self.shortcut(x) + (1 - a) * self.body(x)
