"""Splitting and reconvergence without expansion (Qian & Wegman, ICLR 2019, appendix A.3)."""

from __future__ import annotations

import math

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

    t = cos θ with a trainable θ: one number for the block, or one per channel if `channels` is given. The split and the
    merge share one t unless `out_channels` differs from `channels`. Without the scaling of the split, as in a
    well-known re-implementation, a block is only √2-Lipschitz.
    """

    def __init__(
        self,
        body: nn.Module,
        shortcut: nn.Module | None = None,
        t: float = math.sqrt(0.5),
        channels: int | None = None,
        out_channels: int | None = None,
    ):
        super().__init__()
        if not 0 <= t <= 1:
            raise ValueError(f"`t` must lie in [0, 1], got {t}")
        self.body, self.shortcut = body, shortcut or nn.Identity()
        self.split_angle = nn.Parameter(torch.full((channels, 1, 1) if channels else (), math.acos(t)))
        self.merge_angle = None
        if channels and out_channels and out_channels != channels:
            self.merge_angle = nn.Parameter(torch.full((out_channels, 1, 1), math.acos(t)))

    def forward(self, x: Tensor) -> Tensor:
        split = self.split_angle
        merge = split if self.merge_angle is None else self.merge_angle
        one, other = split_branches(x, split.cos(), split.sin())
        return merge_branches(self.shortcut(one), self.body(other), merge.cos(), merge.sin())


class ConvexResidual(nn.Module):
    """y = a·x + (1 − a)·body(x), a in [0, 1] trainable (Parseval, eq. 11): nonexpansive in any l_p where `body` is."""

    def __init__(self, body: nn.Module, a: float = 0.5):
        super().__init__()
        if not 0 < a < 1:
            raise ValueError(f"`a` must lie in (0, 1), got {a}")
        self.body = body
        self.logit = nn.Parameter(torch.tensor(math.log(a / (1 - a))))

    def forward(self, x: Tensor) -> Tensor:
        a = self.logit.sigmoid()
        return a * x + (1 - a) * self.body(x)
