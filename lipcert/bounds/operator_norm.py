"""Sound upper bounds of the l2 operator norms of linear layers, in float64, rounded up."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

DENSE_ENTRIES = 1_000_000  # a convolution with fewer entries as a matrix is measured exactly, by SVD (below a second)
_UNIT = 2.0**-53


def matrix_norm(w: Tensor) -> Tensor:
    """‖W‖₂ from above, for (..., m, n) matrices, real or complex: √λ_max of the smaller Gram matrix, errors added.

    The computed Gram matrix is off by at most γ_n·‖W‖_F² in norm, its computed eigenvalues by a backward-stable
    solver's p(m)·u·‖WWᴴ‖₂; 16·m for the modest polynomial p is generous.
    """
    w = _double(w)
    if 0 in w.shape:
        return w.abs().new_zeros(w.shape[:-2])
    if w.shape[-2] > w.shape[-1]:
        w = w.mT
    m, n = w.shape[-2:]
    exponent = torch.frexp(w.abs().amax((-2, -1))).exponent
    scale = torch.exp2(exponent.double())  # a power of two, hence exact: against under- and overflow
    w = w / scale[..., None, None]
    frobenius = w.abs().square().sum((-2, -1)) * (1 + 4 * m * n * _UNIT)
    if m == 1:
        return frobenius.sqrt() * (1 + 4 * _UNIT) * scale
    top = torch.linalg.eigvalsh(w @ w.mH)[..., -1].clamp_min(0)
    return (top * (1 + 16 * m * _UNIT) + 8 * n * _UNIT * frobenius).sqrt() * (1 + 4 * _UNIT) * scale


def entrywise_norm(w: Tensor) -> Tensor:
    """‖|W|‖₂ ≤ √(‖W‖₁‖W‖_∞) for (..., m, n): what rounding errors of a product grow by."""
    w = w.detach().double().abs()
    return (w.sum(-1).amax(-1) * w.sum(-2).amax(-1)).sqrt() * (1 + 4 * sum(w.shape[-2:]) * _UNIT)


def convolution_norm(weight: Tensor, stride: int, padding: int, size: tuple[int, int]) -> Tensor:
    """Operator norm, from above, of one zero-padded convolution (C_out, C_in, k, k) on images of `size`.

    The smallest of what is affordable: SVD of the operator as a matrix where that is small; else the FFT bound. Both
    are cut off by √(⌈k/s⌉²)·‖W'‖₂ of the reshaped kernel (Tsuzuku et al., NeurIPS 2018, Corollary 1).
    """
    weight = weight.detach().double()
    c_out, c_in, k, _ = weight.shape
    rows = c_out * math.prod((n + 2 * padding - k) // stride + 1 for n in size)
    cols = c_in * math.prod(size)
    tiled = matrix_norm(weight.flatten(1)) * math.ceil(k / stride) * (1 + 4 * _UNIT)
    if rows * cols <= DENSE_ENTRIES:
        return torch.minimum(matrix_norm(convolution_matrix(weight, stride, padding, size)), tiled)
    return torch.minimum(fft_norm(weight, stride, padding, size), tiled)


def convolution_matrix(weight: Tensor, stride: int, padding: int, size: tuple[int, int]) -> Tensor:
    """The convolution as a matrix, (C_out·H'·W', C_in·H·W): its images of the unit vectors."""
    c_in = weight.shape[1]
    basis = torch.eye(c_in * size[0] * size[1], dtype=weight.dtype, device=weight.device).view(-1, c_in, *size)
    return F.conv2d(basis, weight, stride=stride, padding=padding).flatten(1).T


def fft_norm(weight: Tensor, stride: int, padding: int, size: tuple[int, int]) -> Tensor:
    """The norm of the convolution on a torus that it is a restriction of, hence an upper bound.

    The torus holds the zero-extended image: N ≥ max(n + 2p, n + k − 1), divisible by the stride. Stride s aliases s²
    frequencies onto one: σ ≤ (1/s)·max_ω σ_max([T(ω₁) … T(ω_{s²})]).
    """
    k, s = weight.shape[-1], stride
    torus = [math.ceil(max(n + 2 * padding, n + k - 1) / s) * s for n in size]
    t = torch.fft.fft2(weight, s=torus).permute(2, 3, 0, 1)  # (N, M, C_out, C_in)
    if s > 1:
        n, m, c_out, c_in = (torus[0] // s, torus[1] // s, *weight.shape[:2])
        t = t.view(s, n, s, m, c_out, c_in).permute(1, 3, 4, 0, 2, 5).reshape(n, m, c_out, s * s * c_in)
    else:
        t = t[:, : torus[1] // 2 + 1]  # a real kernel: the other half are conjugates, with the same singular values
    t = t.reshape(-1, *t.shape[2:])
    rounding = 8 * math.log2(4 * torus[0] * torus[1]) * _UNIT  # the FFT's own, relative to the kernel's norm
    slack = rounding * math.sqrt(weight.numel()) * float(weight.norm())
    return (_largest_norm(t) + slack) / s * (1 + 4 * _UNIT)


def _largest_norm(blocks: Tensor, chunk: int = 32) -> Tensor:
    """max_i ‖B_i‖₂ from above. Blocks go in the order of their Frobenius norms, which end the search: nothing behind a
    block can exceed that block's.
    """
    frobenius = blocks.abs().square().sum((-2, -1)).sqrt() * (1 + 1e-12)
    order = frobenius.argsort(descending=True)
    best = frobenius.new_zeros(())
    for at in range(0, len(order), chunk):
        part = order[at : at + chunk]
        if frobenius[part[0]] <= best:
            break
        best = torch.maximum(best, matrix_norm(blocks[part]).max())
    return best


def _double(w: Tensor) -> Tensor:
    return w.detach().to(torch.complex128 if w.is_complex() else torch.float64)
