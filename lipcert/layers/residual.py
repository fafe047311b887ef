"""Splitting and reconvergence without expansion (Qian & Wegman, ICLR 2019, appendix A.3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lipcert.contracts import Signal


class Residual(nn.Module):
    """y = t_m·shortcut(t_s·x) + √(1−t_m²)·body(√(1−t_s²)·x), nonexpansive if `body` and `shortcut` are (eq. 9, 10).

    t = cos θ with θ trainable: a number for the block, or with `channels` (and `out_channels`) one a channel. The split
    shares its t with the merge where the shapes allow it. Leaving out the split's scaling, as a well-known
    re-implementation does, makes a block √2-Lipschitz.
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

    def merging(self) -> Tensor:
        return self.split_angle if self.merge_angle is None else self.merge_angle

    def forward(self, x: Tensor) -> Tensor:
        split, merge = self.split_angle, self.merging()
        return merge.cos() * self.shortcut(split.cos() * x) + merge.sin() * self.body(split.sin() * x)

    def bound(self, signal: Signal, walk, name: str) -> Signal:
        """‖split‖ = ‖merge‖ = 1 around a block-diagonal map: L ≤ max(L_shortcut, L_body); with one t for the whole
        block also L ≤ t_s·t_m·L_shortcut + √(1−t_s²)√(1−t_m²)·L_body, which is never larger where t is shared."""
        scaled = signal.after(roundings=4)  # cos, sin and one product; |cos|, |sin| ≤ 1
        short = walk(self.shortcut, scaled, f"{name}.shortcut")
        body = walk(self.body, scaled, f"{name}.body")
        if short.shape != body.shape:
            raise ValueError(f"`{name}`: the shortcut gives {short.shape} and the body {body.shape}")
        if self.split_angle.dim() == 0:
            cos, sin = self.split_angle.detach().cos() ** 2, self.split_angle.detach().sin() ** 2
            lipschitz = (cos * short.lipschitz + sin * body.lipschitz) * (1 + 16 * signal.unit)
        else:
            lipschitz = torch.maximum(short.lipschitz, body.lipschitz) * (1 + 16 * signal.unit)
        magnitude = short.magnitude + body.magnitude
        error = short.error + body.error + signal.rounding(6) * magnitude
        return Signal(body.shape, lipschitz, magnitude, error, signal.unit)


class ConvexResidual(nn.Module):
    """y = a·x + (1 − a)·body(x) with a in [0, 1] trainable: the Parseval way (eq. 11), nonexpansive in any l_p."""

    def __init__(self, body: nn.Module, a: float = 0.5):
        super().__init__()
        if not 0 < a < 1:
            raise ValueError(f"`a` must lie in (0, 1), got {a}")
        self.body = body
        self.logit = nn.Parameter(torch.tensor(math.log(a / (1 - a))))

    def forward(self, x: Tensor) -> Tensor:
        a = self.logit.sigmoid()
        return a * x + (1 - a) * self.body(x)

    def bound(self, signal: Signal, walk, name: str) -> Signal:
        body = walk(self.body, signal, f"{name}.body")
        a = self.logit.detach().sigmoid()
        lipschitz = (a * signal.lipschitz + (1 - a) * body.lipschitz) * (1 + 16 * signal.unit)
        magnitude = max(signal.magnitude, body.magnitude)
        error = max(signal.error, body.error) + signal.rounding(16) * 2 * magnitude
        return Signal(body.shape, lipschitz, magnitude * (1 + 16 * signal.unit), error, signal.unit)
