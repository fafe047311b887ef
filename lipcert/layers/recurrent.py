"""A recurrent cell that never expands an l2 distance (Qian & Wegman, ICLR 2019, appendix A.4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipcert.kernels.whole import kept_whole
from lipcert.layers.nonexpansive import NonexpansiveLinear
from lipcert.layers.two_sided import TwoSidedReLU, two_sided


@kept_whole("recurrent(Tensor x, Tensor weight, Tensor? bias, Tensor cos, Tensor sin) -> Tensor")
def recurrent(x: Tensor, weight: Tensor, bias: Tensor | None, cos: Tensor, sin: Tensor) -> Tensor:
    """Runs the cell below over a sequence (B, T, n) from a zero state: (B, T + 1, 2·hidden), outputs and last state."""
    state, outputs = x.new_zeros(x.shape[0], 2 * weight.shape[0]), []
    for step in x.unbind(1):
        s = two_sided(F.linear(torch.cat((step, state), 1), weight, bias), None, "relu", 1)
        outputs.append(cos * s)
        state = sin * s
    return torch.stack([*outputs, state], 1)


class NonexpansiveRNNCell(nn.Module):
    """(x, h) ↦ (y, h'): s = two-sided(Ŵ[x; h] + b), y = t·s, h' = √(1−t²)·s with a trainable t = cos θ.

    s is used twice, as output and as next state, so it is split as in eq. 9: ‖(Δy, Δh')‖ = ‖Δs‖ ≤ ‖(Δx, Δh)‖. By
    induction the unrolled map (x₁ … x_T, h₀) ↦ (y₁ … y_T, h_T) is nonexpansive for every T.
    x is (B, in); h, h' and y are (B, 2·hidden).
    """

    def __init__(self, in_features: int, hidden: int, t: float = math.sqrt(0.5), gram: str = "smaller"):
        super().__init__()
        self.linear = NonexpansiveLinear(in_features + 2 * hidden, hidden, gram=gram)
        self.two_sided = TwoSidedReLU()
        self.angle = nn.Parameter(torch.tensor(math.acos(t)))

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = x.new_zeros(x.shape[0], 2 * self.linear.out_features) if h is None else h
        s = self.two_sided(self.linear(torch.cat((x, h), 1)))
        return self.angle.cos() * s, self.angle.sin() * s


class NonexpansiveRNN(nn.Module):
    """The cell over a whole sequence, from a zero state: (B, T, in) to (B, T + 1, 2·hidden), outputs and last state."""

    def __init__(self, in_features: int, hidden: int, t: float = math.sqrt(0.5), gram: str = "smaller"):
        super().__init__()
        self.cell = NonexpansiveRNNCell(in_features, hidden, t, gram)

    def forward(self, x: Tensor) -> Tensor:
        linear, angle = self.cell.linear, self.cell.angle
        return recurrent(x, linear.constrained_weight(), linear.bias, angle.cos(), angle.sin())
