"""A recurrent cell that never expands an l2 distance (Qian & Wegman, ICLR 2019, appendix A.4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lipcert.contracts import Signal
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


class NonexpansiveRNN(nn.Module):
    """The cell over a whole sequence, from a zero state: (B, T, in) to (B, T + 1, 2·hidden), outputs and last state."""

    def __init__(self, in_features: int, hidden: int, t: float = math.sqrt(0.5), gram: str = "smaller"):
        super().__init__()
        self.cell = NonexpansiveRNNCell(in_features, hidden, t, gram)

    def forward(self, x: Tensor) -> Tensor:
        state, outputs = self.cell.initial_state(x), []
        for step in x.unbind(1):
            output, state = self.cell(step, state)
            outputs.append(output)
        return torch.stack([*outputs, state], 1)

    def bound(self, signal: Signal, walk, name: str) -> Signal:
        """A step multiplies the square of how far its input and its state moved by at most σ², σ the cell's measured
        norm, and leaves the earlier outputs alone: max(1, σ)^T over T steps. Each adds its own bias and error.
        """
        linear, (steps, _) = self.cell.linear, signal.shape
        one = Signal((linear.in_features,), torch.ones_like(signal.lipschitz.max()), 1.0, 0.0, signal.unit)
        after = walk(linear, one, f"{name}.cell.linear" if name else "cell.linear")
        growth = max(1.0, float(after.lipschitz)) ** steps * (1 + 16 * steps * signal.unit)
        bias = 0.0 if linear.bias is None else float(linear.bias.detach().norm())
        reach = growth * (signal.magnitude + steps * bias)
        local = after.error * max(1.0, reach) + signal.rounding(6) * reach
        error = growth * (signal.error + steps * local)
        shape = (steps + 1, 2 * linear.out_features)
        return Signal(shape, signal.lipschitz * growth, reach, error, signal.unit)
