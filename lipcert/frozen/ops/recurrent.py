"""The recurrent cell that expands no l2 distance (Qian & Wegman, ICLR 2019, appendix A.4), over a sequence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from lipcert.contracts import Norm
from lipcert.frozen.arithmetic import Arithmetic
from lipcert.frozen.operation import UP, Box, Operation, Shape, expect, largest, outward
from lipcert.frozen.ops.affine import length, lengths, ones
from lipcert.frozen.ops.linear import Linear
from lipcert.norms import Matrices, growth

if TYPE_CHECKING:
    from lipcert.frozen.lipschitz import Walk


@dataclass(frozen=True, eq=False, kw_only=True)
class Recurrent(Operation):
    """(x₁ … x_T) ↦ (y₁ … y_T, h_T): s_t = two-sided ReLU(W[x_t; h_{t−1}] + b), y_t = cos·s_t, h_t = sin·s_t, h₀ = 0.

    (T, n) to (T + 1, 2·hidden), weight (hidden, n + 2·hidden). `cos` and `sin` are one number each.
    """

    weight: Tensor
    bias: Tensor | None
    cos: Tensor
    sin: Tensor
    kind: ClassVar[str] = "recurrent"

    @property
    def products(self) -> int:
        return (self.shape[0] - 1) * self.weight.numel()

    def evaluate(self, *values: Tensor) -> Tensor:
        return unrolled(values[0], self.weight, self.bias, self.cos, self.sin)

    def result_shape(self, *shapes: Shape) -> Shape:
        hidden, width = self.weight.shape if self.weight.dim() == 2 else (0, 0)
        fits = len(shapes[0]) == 2 and hidden > 0 and shapes[0][1] == width - 2 * hidden
        expect(fits, f"a weight of {tuple(self.weight.shape)} does not fit {shapes[0]}")
        expect(self.bias is None or self.bias.shape == (hidden,), "the bias does not fit the weight")
        expect(self.cos.shape == self.sin.shape == (), "the cosine and the sine are not one number each")
        return (shapes[0][0] + 1, 2 * hidden)

    def _turn(self) -> float:
        return float(torch.hypot(self.cos, self.sin).max()) * UP

    def _sizes(self) -> tuple[float, float]:
        """Upper bounds of the l2 norms of W and of |W|, which are computed once."""
        known: list[float] = self.__dict__.setdefault("_norms", [])
        if not known:
            matrix = Matrices(self.weight[None])
            norm = float(matrix.norms(Norm.L2).max()) * UP
            known += [norm, max(norm, float(growth(matrix, Norm.L2).max()))]
        return known[0], known[1]

    def lipschitz(self, walk: Walk, number: int, part: Tensor | None) -> Any:
        """max(1, σ·√(cos² + sin²))^T over T steps, if σ is the norm of W: one step multiplies the joint movement of its
        input and state by at most σ·√(cos² + sin²), and leaves the earlier outputs as they are."""
        if walk.norm is not Norm.L2:
            raise ValueError(f"`{self.name or self.kind}`: a recurrent cell has a Lipschitz rule in l2 alone")
        step = walk.product(walk.measured(number, None, None, lambda: Matrices(self.weight[None])), self._turn())
        gains = [walk.most([1.0, step])] * (self.shape[0] - 1)
        return walk.product(*gains, walk.constant(self.inputs[0]))

    def box(self, arithmetic: Arithmetic, *boxes: Box) -> Box:
        """Step by step, with the box of a linear operation."""
        low, high = boxes[0]
        width = self.weight.shape[0]
        layer = Linear(inputs=(0,), shape=(width,), weight=self.weight, bias=self.bias)
        state = (low.new_zeros(len(low), 2 * width), low.new_zeros(len(low), 2 * width))
        ends: list[Box] = []
        for step in range(low.shape[1]):
            seen = (torch.cat((low[:, step], state[0]), 1), torch.cat((high[:, step], state[1]), 1))
            a, b = layer.box(arithmetic, seen)
            s = torch.cat((a.relu(), (-b).relu()), 1), torch.cat((b.relu(), (-a).relu()), 1)
            ends.append(self._times(arithmetic, self.cos, s))
            state = self._times(arithmetic, self.sin, s)
        least, most = (torch.stack(column, 1) for column in zip(*ends, state, strict=True))
        return least, most

    def _times(self, arithmetic: Arithmetic, factor: Tensor, box: Box) -> Box:
        one, other = factor * box[0], factor * box[1]
        wider = 4 * arithmetic.unit * largest((one, other)) + 4 * (1 + factor.abs() + largest(box)) * arithmetic.tiny
        return outward(torch.minimum(one, other), torch.maximum(one, other), wider)

    def moved(self, *errors: Tensor) -> Tensor:
        """A bound in l2, as no entry moves farther than the whole."""
        gain = math.prod([max(1.0, self._sizes()[0] * self._turn())] * (self.shape[0] - 1))
        total = errors[0].flatten(1).sum(1).view(-1, 1, 1)
        return (total * gain * UP).expand(-1, *self.shape)

    def rounded(self, arithmetic: Arithmetic, size: Tensor, *sizes: Tensor) -> Tensor:
        reach = torch.as_tensor(self.rounded_in_norm(arithmetic, Norm.L2, lengths(sizes[0], Norm.L2)), dtype=size.dtype)
        return reach.to(size.device).view(-1, 1, 1).expand_as(size)

    def rounded_in_norm(self, arithmetic: Arithmetic, norm: Norm, *lengths: Any) -> Any:
        """A step that reads the length V adds at most d(V) = 3t·(g·(ν·V + ‖b‖) + u·(1 + V)) to the error.

        Here σ and ν are the norms of W and |W|, t = √(cos² + sin²), g the relative error of the product and u what is
        lost below the smallest normal number. W[x; h] + b is off by g·(ν·V + ‖b‖) + u·(1 + V); the two-sided ReLU
        passes this on, and the scaling by t; the products with cos and sin are off by no more than g·t times a length
        of at most σ·V + ‖b‖ plus that error. For g ≤ 1/2 this is below d(V), as σ ≤ ν.

        The error E of all earlier outputs and the state is then multiplied by no more than S = max(1, σ·t), as the
        exact step expands no more than that (see `lipschitz`), whatever ν is. The exact values have at most the length
        R = S^T·(‖x‖ + T·t·‖b‖), the computed ones R + E. So E becomes at most (S + 3t·(g·ν + u))·E + d(R), and after T
        steps it is at most T·(S + 3t·(g·ν + u))^T·d(R). Infinite where g is larger.
        """
        steps, n, turn = self.shape[0] - 1, self.weight.shape[1], max(1.0, self._turn())
        matrix, size = self._sizes()
        relative = arithmetic.safety * arithmetic.gamma(n + 6)
        if norm is not Norm.L2 or not relative <= 0.5:
            return math.inf
        below = 8 * (n + 2) * arithmetic.tiny * (1 + size) * ones(self.shape, Norm.L2)
        step = max(1.0, matrix * turn) * UP
        gain = math.prod([step + 3 * turn * (relative * size + below) * UP] * steps)
        bias = 0.0 if self.bias is None else length(self.bias, Norm.L2)
        reach = math.prod([step] * steps) * (lengths[0] + steps * turn * bias)
        if not gain < math.inf:
            return math.inf
        return gain * steps * 3 * turn * (relative * (size * reach + bias) + below * (1 + reach)) * UP


def unrolled(x: Tensor, weight: Tensor, bias: Tensor | None, cos: Tensor, sin: Tensor) -> Tensor:
    """The outputs and the last state, (B, T + 1, 2·hidden), for a sequence (B, T, n) and a first state of zeros."""
    state, outputs = x.new_zeros(x.shape[0], 2 * weight.shape[0]), []
    for step in x.unbind(1):
        z = torch.nn.functional.linear(torch.cat((step, state), 1), weight, bias)
        s = torch.cat((z.relu(), (-z).relu()), 1)
        outputs.append(cos * s)
        state = sin * s
    return torch.stack([*outputs, state], 1)
