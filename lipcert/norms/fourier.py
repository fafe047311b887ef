"""The l2 norm of a convolution from above, in the Fourier domain."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lipcert.norms.matrix import top_eigenvalue
from lipcert.norms.rounding import UNIT, double, scaled_to_one, squared_frobenius, times_up
from lipcert.norms.windows import PerAxis, axes_of

BLOCK_ENTRIES = 1 << 22  # entries of the frequencies' blocks that are held at a time


def fft_norm(weight: Tensor, stride: PerAxis, padding: PerAxis, size: tuple[int, ...], dilation: PerAxis = 1) -> Tensor:
    """The l2 norm, from above, of a convolution on a torus, of which the zero-padded one is a restriction.

    Arguments and errors are those of `convolution.convolution_norm`: `weight` is (C_out, C_in, *k), of one group.

    The torus holds the image and its padding: N ≥ max(n + 2p, n + e − 1) on an axis, for a kernel of extent e, and N is
    divisible by the stride (Sedghi, Gupta and Long, ICLR 2019, for stride 1). A stride s maps s frequencies of an axis
    onto one: the norm is max_ω σ_max([T(ω₁) … T(ω_S)])/√S, with S the product of the strides. As the kernel is real,
    half of the blocks are conjugates of others and have equal singular values.
    """
    axes = axes_of(weight, stride, padding, size, dilation)
    c_out, c_in = weight.shape[:2]
    scaled, scale = scaled_to_one(double(weight).flatten(1))
    kernel = scaled.view(c_out, c_in, -1)
    angles = []
    for axis in axes:
        extent = max(axis.size + 2 * axis.padding, axis.size + (axis.kernel - 1) * axis.dilation)
        m, s = -(-extent // axis.stride), axis.stride  # the stride leaves m frequencies of m·s
        frequencies = torch.arange(m)[:, None] + m * torch.arange(s)
        turns = frequencies[..., None] * axis.dilation * torch.arange(axis.kernel) % (m * s)  # (m, s, k), exact
        angles.append(turns.to(kernel) * (2 * math.pi / (m * s)))
    angles[-1] = angles[-1][: len(angles[-1]) // 2 + 1]
    blocks = torch.cartesian_prod(*(torch.arange(len(a)) for a in angles)).view(-1, len(axes))
    aliases, taps = math.prod(a.shape[1] for a in angles), math.prod(a.shape[2] for a in angles)
    largest = kernel.new_zeros(())
    for part in blocks.split(max(1, BLOCK_ENTRIES // (max(c_out * c_in, taps) * aliases))):
        phase = _phases(angles, part)
        largest = _largest_square(torch.einsum("fat,oct->foac", phase, kernel.to(phase)).flatten(2), largest)
    # An entry of T has the error of its sum and of the phases, 64 units in 1 or 2 axes, 128 in 3; Σ|w| ≤ √k·‖w‖.
    units = 8 * (taps + 8 * max(1, len(axes) - 1))
    rounding = units * UNIT * math.sqrt(aliases * taps) * kernel.norm()
    return times_up((largest.sqrt() + rounding) / math.sqrt(aliases) * (1 + 4 * UNIT), scale)


def _phases(angles: list[Tensor], part: Tensor) -> Tensor:
    """exp(i·(α₁ + α₂ + …)), (f, ∏s, ∏k), at the frequencies `part` (f, axes), from angles (m, s, k) per axis."""
    count = len(angles)
    total = angles[0].new_zeros((len(part), *[1] * (2 * count)))
    for i, angle in enumerate(angles):
        shape = [len(part), *[1] * (2 * count)]
        shape[1 + i], shape[1 + count + i] = angle.shape[1:]
        total = total + angle[part[:, i].to(angle.device)].view(shape)
    total = total.flatten(1 + count).flatten(1, count)
    return torch.polar(torch.ones_like(total), total)


def _largest_square(blocks: Tensor, largest: Tensor) -> Tensor:
    """max(largest, max_i ‖B_i‖₂²) from above, for blocks (count, m, n) of moderate scale.

    Eigenvalues are computed only for the few blocks that may raise the maximum. For the others, a Cholesky
    factorisation of c − G shows, at a fraction of the cost, that G = BBᴴ is below c: one that succeeds has a backward
    error of at most γ_{m+1}·tr(c − G) ≤ 16·m(m + 2)·u·c in norm (Rump, BIT 2006). Blocks are visited in descending
    order of ‖G‖_F ≥ ‖B‖₂².
    """
    if blocks.shape[-2] > blocks.shape[-1]:
        blocks = blocks.mT
    m, n = blocks.shape[-2:]
    grams = blocks @ blocks.mH
    rounding = 8 * n * UNIT * squared_frobenius(blocks)
    bounds = squared_frobenius(grams).sqrt() * (1 + 4 * UNIT) + rounding
    order = bounds.argsort(descending=True)
    identity = torch.eye(m, dtype=grams.dtype, device=grams.device)
    at, count = 0, 8
    while at < len(order) and not bounds[order[at]] <= largest:
        part = order[at : at + count]
        ceiling = largest * (1 - 16 * m * (m + 2) * UNIT) - rounding[part]
        failed = torch.linalg.cholesky_ex(ceiling[:, None, None] * identity - grams[part]).info != 0
        if failed.any():
            part = part[failed]
            largest = torch.maximum(largest, top_eigenvalue(grams[part], rounding[part]).max())
        at, count = at + count, 2 * count
    return largest
