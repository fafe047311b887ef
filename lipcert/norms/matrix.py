"""Upper bounds of the norms of matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from lipcert.norms.rounding import UNIT, double, scaled_to_one, squared_frobenius, sum_up, times_up


def matrix_norm(w: Tensor) -> Tensor:
    """‖W‖₂ from above: the root of the largest eigenvalue of the smaller Gram matrix, with the rounding errors added.

    Arguments: `w` (..., m, n), real or complex, of any precision.

    Returns the bounds (...) in float64, inf for a matrix with an entry that is not finite.

    The computed Gram matrix differs from the exact one by at most γ_n·‖W‖_F² in norm (Higham, *Accuracy and Stability
    of Numerical Algorithms*, §3.5).
    """
    w = double(w)
    if 0 in w.shape:
        return w.abs().new_zeros(w.shape[:-2])
    if w.shape[-2] > w.shape[-1]:
        w = w.mT
    m, n = w.shape[-2:]
    w, scale = scaled_to_one(w)
    frobenius = squared_frobenius(w)
    if m == 1:
        return times_up(frobenius.sqrt(), scale)
    return times_up(top_eigenvalue(w @ w.mH, 8 * n * UNIT * frobenius).sqrt(), scale)


def gram_iteration_norm(w: Tensor, iterations: int = 8) -> Tensor:
    """‖W‖₂ from above, by matrix products alone (Delattre et al., ICML 2023).

    Arguments: `w` (..., m, n), real or complex, of any precision; `iterations`, the number t of products.

    Returns the bounds (...) in float64. Except for rounding they are at most rank^(1/2^(t+1)) times the true norms.
    They are inf for a matrix with an entry that is not finite.

    Each iteration replaces G by GGᴴ, whose norm is ‖G‖₂². The norm of the last matrix is at most its Frobenius norm.
    Going back, ‖G‖₂² ≤ ‖fl(GGᴴ)‖₂ + γ_n·‖G‖_F², which adds the rounding of each product.
    """
    w = double(w)
    if 0 in w.shape:
        return w.abs().new_zeros(w.shape[:-2])
    if w.shape[-2] > w.shape[-1]:
        w = w.mT
    way = []
    for _ in range(iterations):
        w, scale = scaled_to_one(w)
        way.append((scale, 8 * w.shape[-1] * UNIT * squared_frobenius(w)))
        w = w @ w.mH
    w, scale = scaled_to_one(w)
    bound = times_up(squared_frobenius(w).sqrt(), scale)
    for scale, rounding in reversed(way):
        bound = times_up((bound + rounding).sqrt(), scale)
    return bound


def largest_row_sum(w: Tensor) -> Tensor:
    """‖W‖_∞ from above, the largest sum of magnitudes in a row; of the transposed matrix it is ‖W‖₁.

    Arguments: `w` (..., m, n), real, of any precision.

    Returns the bounds (...) in float64, inf for a matrix with an entry that is not finite.
    """
    w = w.detach().double().abs()
    if 0 in w.shape:
        return w.new_zeros(w.shape[:-2])
    return sum_up(w.sum(-1).amax(-1), w.shape[-1])


def top_eigenvalue(gram: Tensor, rounding: Tensor) -> Tensor:
    """The largest eigenvalue (...) from above, of matrices whose errors in norm are at most `rounding` (...).

    Arguments: `gram` (..., m, m), Hermitian, of moderate scale.

    The errors of a backward stable solver are p(m)·u·‖G‖₂ with a polynomial p of low degree; 16·m is a generous bound.
    """
    top = torch.linalg.eigvalsh(gram)[..., -1].clamp_min(0)
    return (top * (1 + 16 * gram.shape[-1] * UNIT) + rounding) * (1 + 4 * UNIT)
