"""Norms of linear operations for `lipcert verify`, from above in l2: written anew, and shown by factorisations.

A bound c of ‖B‖₂² is found by an eigenvalue solver, which is not trusted: c·I − BBᴴ is then factorised by Cholesky's
method, and a factorisation that exists shows that no eigenvalue of BBᴴ is above c but for its own rounding errors
(Rump, *Verification of positive definiteness*, BIT 2006).
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

UNIT = 2.0**-53
ENTRIES, COST = 20_000_000, 1e10  # of a convolution's matrix, and of products of its entries, up to which it is formed
BLOCKS = 1 << 22  # entries of matrices at several frequencies that are held at a time
Geometry = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # stride, padding, dilation


def matrix_norm(matrices: Tensor) -> float:
    """The largest ‖B‖₂, from above, of matrices (F, m, n), real or complex; 0 if all entries are 0."""
    most = float(matrices.abs().max())
    if most == 0 or not math.isfinite(most):
        return most if most == 0 else math.inf
    scale = _scale(most)
    return math.sqrt(_largest_square(matrices / scale, 0.0)) * scale * (1 + 4 * UNIT)


def convolution_norm(weight: Tensor, size: tuple[int, ...], geometry: Geometry) -> float:
    """The l2 norm, from above, of a zero-padded convolution by `weight` (C_out, C_in, *k) of images (C_in, *size).

    The smallest of three: of the kernel as a matrix times the root of the number of windows that one entry is in; of
    the whole matrix, where that is small; on a torus that holds image and padding, by frequency.
    """
    most = float(weight.abs().max())
    if most == 0 or not math.isfinite(most):
        return most if most == 0 else math.inf
    scale = _scale(most)
    weight, lies_on = weight / scale, _positions(size, weight.shape[2:], geometry)
    windows = math.prod(int(torch.bincount(at[at >= 0], minlength=1).max()) for at in lies_on)
    squares = [_largest_square(weight.flatten(1)[None], 0.0) * windows]
    rows, entries = weight.shape[0] * math.prod(map(len, lies_on)), weight.shape[1] * math.prod(size)
    if rows * entries <= ENTRIES and rows * entries * min(rows, entries) <= COST:
        squares.append(_largest_square(_matrix(weight, size, lies_on)[None], 0.0))
    elif windows > 1:
        squares.append(_on_a_torus(weight, size, geometry))
    return math.sqrt(min(squares)) * scale * (1 + 8 * UNIT)


def _positions(size: tuple[int, ...], kernel: tuple[int, ...], geometry: Geometry) -> list[Tensor]:
    """For each axis the entry under each tap of each window, (windows, taps); −1 where that is padding."""
    found = []
    for n, k, s, p, d in zip(size, kernel, *geometry, strict=True):
        at = torch.arange((n + 2 * p - d * (k - 1) - 1) // s + 1)[:, None] * s - p + d * torch.arange(k)
        found.append(torch.where((at >= 0) & (at < n), at, -1))
    return found


def _matrix(weight: Tensor, size: tuple[int, ...], lies_on: list[Tensor]) -> Tensor:
    """The convolution as a matrix (C_out·windows, C_in·entries)."""
    found = weight.new_zeros(weight.shape[0], math.prod(map(len, lies_on)), weight.shape[1], math.prod(size))
    for number, tap in enumerate(itertools.product(*map(range, weight.shape[2:]))):
        entry, inside = torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.bool)
        for n, at, t in zip(size, lies_on, tap, strict=True):
            entry = (entry[:, None] * n + at[:, t]).flatten()
            inside = (inside[:, None] & (at[:, t] >= 0)).flatten()
        found[:, inside.nonzero()[:, 0], :, entry[inside]] = weight.flatten(2)[..., number]
    return found.flatten(2).flatten(0, 1)


def _on_a_torus(weight: Tensor, size: tuple[int, ...], geometry: Geometry) -> float:
    """The square of the norm, from above, of the same convolution on a torus of which the image is a part.

    A convolution on a torus is a matrix at each frequency (Sedghi, Gupta and Long, ICLR 2019). With a stride s the
    frequencies f, f + m, f + 2m, … of an axis of m·s points end up as one, at 1/s of their sum of squares.
    """
    phases, taps = [], weight[0, 0].numel()
    for n, k, s, p, d in zip(size, weight.shape[2:], *geometry, strict=True):
        m = -(-max(n + 2 * p, n + d * (k - 1)) // s)
        turns = torch.arange(m * s)[:, None] * (d * torch.arange(k)) % (m * s)  # whole numbers: exact
        angle = turns.double() * (2 * math.pi / (m * s))
        phases.append(torch.polar(torch.ones_like(angle), angle).view(s, m, k).transpose(0, 1))  # (m, s, k)
    copies = math.prod(phase.shape[1] for phase in phases)
    choices = torch.cartesian_prod(*(torch.arange(len(phase)) for phase in phases)).view(-1, len(phases))
    kernel, largest = weight.flatten(2).to(torch.complex128), 0.0
    step = max(1, BLOCKS // (copies * max(kernel[..., 0].numel(), taps)))
    for part in choices[: _half(phases)].split(step):
        whole = torch.ones(len(part), 1, 1, dtype=torch.complex128)
        for axis, phase in enumerate(phases):
            whole = (whole[:, :, None, :, None] * phase[part[:, axis]][:, None, :, None, :]).flatten(1, 2).flatten(2)
        blocks = torch.einsum("fst,oct->focs", whole, kernel).flatten(2)
        largest = _largest_square(blocks, largest)
    # of each entry: its sum of taps, and its phases, which a few units each are off; in norm at most by all together
    off = 8 * (taps + 8 * len(phases)) * UNIT * math.sqrt(copies * taps) * float(weight.norm())
    return (math.sqrt(largest) + off) ** 2 / copies * (1 + 16 * UNIT)


def _half(phases: list[Tensor]) -> int:
    """How many frequencies are enough: a real kernel has conjugate matrices at f and −f, so half of the first axis."""
    return (len(phases[0]) // 2 + 1) * math.prod(len(phase) for phase in phases[1:])


def _largest_square(matrices: Tensor, known: float) -> float:
    """max(known, the largest ‖B‖₂²) from above, of matrices (F, m, n) of moderate scale."""
    if matrices.shape[1] > matrices.shape[2]:
        matrices = matrices.mT
    m, n = matrices.shape[1:]
    squares = matrices.abs().square().sum((1, 2)) * (1 + 4 * (m * n + 4) * UNIT)
    if m == 1:
        return max(known, float(squares.max()))
    for part in squares.argsort(descending=True).split(max(1, BLOCKS // (m * m))):
        if float(squares[part[0]]) > known:  # else none of them is larger
            lost = 2 * _rounds(matrices) * (n + 4) * UNIT * squares[part]
            known = _raised(matrices[part] @ matrices[part].mH, lost, known)
    return known


def _raised(grams: Tensor, lost: Tensor, known: float) -> float:
    """`known`, raised until no eigenvalue of the Hermitian matrices `grams` (F, m, m), which are off by at most `lost`
    (F,) in norm, is above it."""
    m, traces = grams.shape[1], grams.diagonal(dim1=1, dim2=2).real.sum(1)
    identity, some = torch.eye(m, dtype=grams.dtype), 4
    while len(grams):
        spare = 1.01 * _rounds(grams) * (m + 2) * UNIT * (m * known - traces).clamp_min(0)  # for the factorisation
        ceiling = known - lost - spare
        failed = torch.linalg.cholesky_ex(ceiling[:, None, None] * identity - grams).info != 0
        failed |= ~(ceiling > 0)
        grams, lost, traces, spare = grams[failed], lost[failed], traces[failed], spare[failed]
        if len(grams):
            top = float(torch.linalg.eigvalsh(grams[:some])[:, -1].max())
            known = max(known, top, 1e-300) * (1 + (16 + m) * UNIT)
            known += float((lost + 2 * spare.clamp_min(_rounds(grams) * (m + 2) * UNIT * 1e-3 * known)).max())
            some *= 2
    return known


def _scale(most: float) -> float:
    """A power of two, near `most` > 0."""
    return 2.0 ** min(math.frexp(most)[1], 1023)


def _rounds(matrices: Tensor) -> int:
    """How many real roundings one of a product counts for, generously."""
    return 4 if matrices.is_complex() else 1
