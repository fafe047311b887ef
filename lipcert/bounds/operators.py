"""The linear maps that networks are made of, as what bounds and estimates need to know of them.

Each is `groups` maps side by side (one, but for branches and grouped convolutions), and answers with one norm a group.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from lipcert.bounds.operator_norm import convolution_norm, entrywise_norm, matrix_norm, overlap
from lipcert.contracts import Norm

Pair = tuple[int, int]


class Operator(Protocol):
    """x ↦ (W_g x)_g.

    `domain` is the shape of a vector that power iteration starts from; `apply` maps a batch of them, `transpose` the
    images back. `fan_in` is how many products an output sums.
    """

    @property
    def weight(self) -> Tensor: ...
    @property
    def groups(self) -> int: ...
    @property
    def domain(self) -> tuple[int, ...]: ...
    @property
    def fan_in(self) -> int: ...
    def matrices(self) -> Tensor:
        """The weight in float64, as (G, m, n): what is applied at each position."""

    def tiles(self) -> int:
        """How many times a position counts, squared: the map's l2 norm is at most √tiles times `matrices`'."""

    def scaled(self, rows: Tensor) -> Operator:
        """Its outputs (channels) times `rows`."""

    def norms(self, norm: Norm) -> Tensor:
        """The operator norms (G,) in `norm`: proved upper bounds, in float64, rounded up."""

    def apply(self, u: Tensor) -> Tensor: ...
    def transpose(self, v: Tensor) -> Tensor: ...
    def power_step(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """(‖W_g u_g‖ (G,), differentiable in the weight; the next u), for a u of `domain`, each group's of length 1."""


def growth(operator: Operator, norm: Norm) -> Tensor:
    """(G,): what |W| does to lengths at most, which rounding errors of a product grow by."""
    if norm is Norm.LINF:
        return _row_sums(operator.matrices())
    return entrywise_norm(operator.matrices()) * math.sqrt(operator.tiles())


def normalised(u: Tensor) -> Tensor:
    """(G, n), each row of length 1."""
    return u / (torch.linalg.vector_norm(u, dim=1, keepdim=True) + TINY)


def _row_sums(matrices: Tensor) -> Tensor:
    """In l_inf a matrix's norm, and the convolution's that it is the kernel of, is its largest sum of magnitudes."""
    return matrices.abs().sum(-1).amax(-1) * (1 + 2 * matrices.shape[-1] * 2.0**-53)


@dataclass(frozen=True)
class Matrices:
    """One matrix a group: weight (G, m, n)."""

    weight: Tensor

    @property
    def groups(self) -> int:
        return len(self.weight)

    @property
    def domain(self) -> tuple[int, ...]:
        return (self.groups, self.weight.shape[-1])

    @property
    def fan_in(self) -> int:
        return self.weight.shape[-1]

    def matrices(self) -> Tensor:
        return self.weight.detach().double()

    def tiles(self) -> int:
        return 1

    def scaled(self, rows: Tensor) -> Matrices:
        return replace(self, weight=self.weight * rows.view(self.groups, -1, 1))

    def norms(self, norm: Norm) -> Tensor:
        return matrix_norm(self.weight) if norm is Norm.L2 else _row_sums(self.matrices())

    def apply(self, u: Tensor) -> Tensor:
        return (self.weight @ u[..., None])[..., 0]

    def transpose(self, v: Tensor) -> Tensor:
        return (self.weight.mT @ v[..., None])[..., 0]

    def power_step(self, u: Tensor) -> tuple[Tensor, Tensor]:
        sigma, back = _Step.apply(self.weight, u.clone()[..., None])
        return sigma, normalised(back[..., 0])


@dataclass(frozen=True)
class Convolution:
    """A zero-padded convolution of images of `size`: weight (C_out, C_in/G, kh, kw)."""

    weight: Tensor
    size: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    @classmethod
    def of(cls, module: Any, size: Pair) -> Convolution:
        return cls(module.weight, size, module.stride, module.padding, module.dilation, module.groups)

    @property
    def geometry(self) -> tuple[Pair, Pair, Pair, int]:
        return self.stride, self.padding, self.dilation, self.groups

    @property
    def domain(self) -> tuple[int, ...]:
        return (self.groups * self.weight.shape[1], *self.size)

    @property
    def fan_in(self) -> int:
        return self.weight[0].numel()

    def matrices(self) -> Tensor:
        return self.weight.detach().double().reshape(self.groups, -1, self.fan_in)

    def tiles(self) -> int:
        return overlap(self.weight, self.stride, self.padding, self.size, self.dilation)

    def scaled(self, rows: Tensor) -> Convolution:
        return replace(self, weight=self.weight * rows.view(-1, 1, 1, 1))

    def norms(self, norm: Norm) -> Tensor:
        if norm is Norm.LINF:
            return _row_sums(self.matrices())
        kernels = self.weight.detach().double().chunk(self.groups)
        return torch.stack(
            [convolution_norm(kernel, self.stride, self.padding, self.size, self.dilation) for kernel in kernels]
        )

    def apply(self, u: Tensor) -> Tensor:
        return F.conv2d(u, self.weight, None, *self.geometry)

    def transpose(self, v: Tensor) -> Tensor:
        return conv2d_input((len(v), *self.domain), self.weight, v, *self.geometry)

    def power_step(self, u: Tensor) -> tuple[Tensor, Tensor]:
        tiling = {"dilation": self.dilation, "padding": self.padding, "stride": self.stride}
        kernel = self.weight.shape[2:]
        columns = F.unfold(u[None], kernel, **tiling).view(self.groups, self.fan_in, -1)  # a window each
        sigma, back = _Step.apply(self.weight, columns)
        following = F.fold(back.view(1, -1, back.shape[-1]), self.size, kernel, **tiling)
        return sigma, normalised(following.view(self.groups, -1)).view(self.domain)


TINY = 1e-20


class _Step(torch.autograd.Function):
    """(W, columns) ↦ (‖W·columns‖ a group, and what leads back) for a W that is (G, m, n) and (G, n, positions), in one
    matrix product each. The norm's gradient, V·columnsᵀ with V the normalised image, is known at once.
    """

    @staticmethod
    def forward(ctx, weight: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        matrices = weight.view(len(columns), -1, columns.shape[1])
        v = matrices @ columns
        sigma = torch.linalg.vector_norm(v, dim=(1, 2))
        v /= (sigma + TINY)[:, None, None]
        ctx.save_for_backward(v, columns)
        ctx.shape = weight.shape
        back = matrices.mT @ v
        ctx.mark_non_differentiable(back)
        return sigma, back

    @staticmethod
    def backward(ctx, grad: Tensor, _: Any) -> Any:
        v, columns = ctx.saved_tensors
        return ((grad[:, None, None] * v) @ columns.mT).view(ctx.shape), None
