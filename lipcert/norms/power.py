"""One step of power iteration, which estimates a norm from below for training: it proves nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

TINY = 1e-20  # what a length is enlarged by before it divides


def normalised(u: Tensor) -> Tensor:
    """The rows of `u` (G, n), each divided by its length; a row of zeros stays one."""
    return u / (torch.linalg.vector_norm(u, dim=1, keepdim=True) + TINY)


class MatrixStep(torch.autograd.Function):
    """`MatrixStep.apply(weight, columns)` is (‖W_g·columns_g‖_F (G,), what leads back: W_gᵀ of the normalised image).

    Arguments: `weight`, any shape that is (G, m, n) when viewed so; `columns` (G, n, positions). The norm is
    differentiable in the weight. Its gradient, V·columnsᵀ with V the normalised image, is known at once, so that both
    directions cost one product a group.
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
