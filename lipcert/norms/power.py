"""One step of power iteration, which estimates a norm from below, for training only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

TINY = 1e-20  # is added to a length before a division


def normalised(u: Tensor) -> Tensor:
    """The rows of `u` (G, n), each divided by its l2 length; a row of zeros stays zero."""
    return u / (torch.linalg.vector_norm(u, dim=1, keepdim=True) + TINY)


class MatrixStep(torch.autograd.Function):
    """`MatrixStep.apply(weight, columns)` is (σ_g = ‖W_g·columns_g‖_F (G,), W_gᵀV_g with V_g = W_g·columns_g/σ_g).

    Arguments: `weight`, of any shape that can be viewed as (G, m, n); `columns` (G, n, positions). σ is differentiable
    in the weight. Its gradient is V·columnsᵀ, so that each direction costs one product per group.
    """

    @staticmethod
    def forward(ctx, weight: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        matrices = weight.reshape(len(columns), -1, columns.shape[1])
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
