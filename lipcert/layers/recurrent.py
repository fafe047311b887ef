"""A recurrent cell that never expands an l2 distance (Qian & Wegman, ICLR 2019, appendix A.4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lipcert.layers.nonexpansive import NonexpansiveLinear
from lipcert.layers.two_sided import TwoSidedReLU


class NonexpansiveRNNCell(nn.Module):
    """(x, h) ↦ (y, h'): s = two-sided(Ŵ[x; h] + b), y = t·s, h' = √(1−t²)·s with t = cos θ trainable.

    Its state goes two ways, to the output and to the next step, so it is split as in eq. 9: ‖(Δy, Δh')‖ = ‖Δs‖ ≤
    ‖(Δx, Δh)‖. By induction the unrolled map (x₁ … x_T, h₀) ↦ (y₁ … y_T, h_T) is nonexpansive for every T.
    x (B, in), h and y (B, 2·hidden).
    """

    def __init__(self, in_features: int, hidden: int, t: float = math.sqrt(0.5), gram: str = "smaller"):
        super().__init__()
        self.linear = NonexpansiveLinear(in_features + 2 * hidden, hidden, gram=gram)
        self.two_sided = TwoSidedReLU()
        self.angle = nn.Parameter(torch.tensor(math.acos(t)))

    def initial_state(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), 2 * self.linear.out_features)

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = self.initial_state(x) if h is None else h
        s = self.two_sided(self.linear(torch.cat((x, h), 1)))
        return self.angle.cos() * s, self.angle.sin() * s
