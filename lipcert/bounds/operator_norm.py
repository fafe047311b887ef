"""Sound upper bounds of the l2 operator norms of linear layers, in float64, rounded up.

LMT: Tsuzuku, Sato and Sugiyama, NeurIPS 2018.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Pair = int | tuple[int, int]

DENSE_COST = 1e10  # a convolution whose matrix has a Gram matrix of fewer products is measured exactly: a few seconds
DENSE_ENTRIES = 20_000_000  # and of no more entries than this
BLOCK_ENTRIES = 1 << 22  # the FFT bound's frequency blocks are measured by so many entries at a time
_UNIT = 2.0**-53


def matrix_norm(w: Tensor) -> Tensor:
    """‖W‖₂ from above, for (..., m, n) matrices, real or complex: √λ_max of the smaller Gram matrix, errors added.

    The computed Gram matrix is off by at most γ_n·‖W‖_F² in norm.
    """
    w = _double(w)
    if 0 in w.shape:
        return w.abs().new_zeros(w.shape[:-2])
    if w.shape[-2] > w.shape[-1]:
        w = w.mT
    m, n = w.shape[-2:]
    scale = _power_of_two(w)
    w = w / scale[..., None, None]
    frobenius = _squared_frobenius(w)
    if m == 1:
        return frobenius.sqrt() * (1 + 4 * _UNIT) * scale
    return _top_eigenvalue(w @ w.mH, 8 * n * _UNIT * frobenius).sqrt() * (1 + 4 * _UNIT) * scale


def gram_iteration_norm(w: Tensor, iterations: int = 8) -> Tensor:
    """‖W‖₂ from above, for (..., m, n) matrices, real or complex, by products alone.

    Each iteration replaces G by GGᴴ, whose norm is ‖G‖₂²; the last one's is at most its Frobenius norm, so that t
    iterations are at most rank^(1/2^(t+1)) above the truth (Delattre et al., ICML 2023). On the way back up, ‖G‖₂² is
    at most ‖fl(GGᴴ)‖₂ + γ_n·‖G‖_F²: the rounding of every product is added where it arose.
    """
    w = _double(w)
    if 0 in w.shape:
        return w.abs().new_zeros(w.shape[:-2])
    if w.shape[-2] > w.shape[-1]:
        w = w.mT
    way = []
    for _ in range(iterations):
        scale = _power_of_two(w)
        w = w / scale[..., None, None]
        way.append((scale, 8 * w.shape[-1] * _UNIT * _squared_frobenius(w)))
        w = w @ w.mH
    scale = _power_of_two(w)
    bound = _squared_frobenius(w / scale[..., None, None]).sqrt() * (1 + 4 * _UNIT) * scale
    for scale, rounding in reversed(way):
        bound = (bound + rounding).sqrt() * (1 + 4 * _UNIT) * scale
    return bound


def entrywise_norm(w: Tensor) -> Tensor:
    """‖|W|‖₂ ≤ √(‖W‖₁‖W‖_∞) for (..., m, n): what rounding errors of a product grow by."""
    w = w.detach().double().abs()
    return (w.sum(-1).amax(-1) * w.sum(-2).amax(-1)).sqrt() * (1 + 4 * sum(w.shape[-2:]) * _UNIT)


def convolution_norm(weight: Tensor, stride: Pair, padding: Pair, size: tuple[int, int], dilation: Pair = 1) -> Tensor:
    """Operator norm, from above, of one zero-padded convolution (C_out, C_in, kh, kw) on images of `size`.

    The smallest of what is affordable: LMT's Corollary 1, which is exact where windows share no entry; the norm of the
    operator as a matrix, where that is small; else the FFT bound. One group: a caller stacks those.
    """
    taps = _taps(weight, stride, padding, size, dilation)
    bound = corollary1_norm(weight, stride, padding, size, dilation)
    rows, cols = weight.shape[0] * math.prod(len(t) for t in taps), weight.shape[1] * math.prod(size)
    whole = all(bool(t.any(-1).all(-1).any()) for t in taps)  # some window has no padding in it
    if whole and overlap(weight, stride, padding, size, dilation) <= 1:
        return bound
    if rows * cols <= DENSE_ENTRIES and rows * cols * min(rows, cols) <= DENSE_COST:
        return torch.minimum(bound, matrix_norm(convolution_matrix(weight, stride, padding, size, dilation)))
    return torch.minimum(bound, fft_norm(weight, stride, padding, size, dilation))


def corollary1_norm(weight: Tensor, stride: Pair, padding: Pair, size: tuple[int, int], dilation: Pair = 1) -> Tensor:
    """√n·‖W'‖₂ ≥ ‖Conv‖₂: W' the kernel as (C_out, C_in·kh·kw), n the overlap of its windows (LMT, Corollary 1)."""
    n = overlap(weight, stride, padding, size, dilation)
    return matrix_norm(weight.flatten(1)) * math.sqrt(n) * (1 + 4 * _UNIT)


def overlap(weight: Tensor, stride: Pair, padding: Pair, size: tuple[int, int], dilation: Pair = 1) -> int:
    """The most windows that any one entry of the input is in, counted.

    Without dilation at most LMT's ∏ ⌈min(k, H + 2p − k + 1)/s⌉; with it at most ⌈k·gcd(s, d)/s⌉ an axis: at s = d = 2
    all windows have one parity, and an entry of that parity is in k of them.
    """
    return math.prod(int(t.sum((0, 1)).max()) for t in _taps(weight, stride, padding, size, dilation))


def convolution_matrix(
    weight: Tensor, stride: Pair, padding: Pair, size: tuple[int, int], dilation: Pair = 1
) -> Tensor:
    """The convolution as a matrix, (C_out·H'·W', C_in·H·W): the kernel's own entries, put in place."""
    vertical, horizontal = (t.to(weight) for t in _taps(weight, stride, padding, size, dilation))
    matrix = torch.einsum("ocab,iay->ocbiy", weight.detach(), vertical)  # no sum has two terms other than 0: exact
    return torch.einsum("ocbiy,jbx->oijcyx", matrix, horizontal).flatten(3).flatten(0, 2)


def fft_norm(weight: Tensor, stride: Pair, padding: Pair, size: tuple[int, int], dilation: Pair = 1) -> Tensor:
    """The norm of the convolution on a torus that it is a restriction of, hence an upper bound.

    The torus holds the zero-extended image: N ≥ max(n + 2p, n + e − 1) for a kernel of extent e, divisible by the
    stride. Stride s aliases s frequencies of an axis onto one: σ ≤ max_ω σ_max([T(ω₁) … T(ω_S)])/√S, S = s_h·s_w. The
    kernel being real, half of the blocks are conjugates of others, with the same singular values.
    """
    _taps(weight, stride, padding, size, dilation)  # what can't be is said there
    c_out, c_in, *kernel = weight.shape
    weight = weight.detach().double().flatten(2)
    scale = _power_of_two(weight.flatten(1))
    weight = weight / scale
    axes = []
    for n, k, s, p, d in zip(size, kernel, *map(_pair, (stride, padding, dilation)), strict=True):
        m = math.ceil(max(n + 2 * p, n + (k - 1) * d) / s)  # frequencies left of m·s
        frequencies = torch.arange(m)[:, None] + m * torch.arange(s)
        turns = frequencies[..., None] * d * torch.arange(k) % (m * s)  # (m, s, k), exact
        axes.append(turns.to(weight) * (2 * math.pi / (m * s)))
    rows, columns = axes[0], axes[1][: len(axes[1]) // 2 + 1]
    angles = rows[:, None, :, None, :, None] + columns[:, None, :, None]  # (m, m', s, s', k, k')
    angles = angles.flatten(4).flatten(2, 3).flatten(0, 1)
    aliases, taps = angles.shape[1:]
    largest = weight.new_zeros(())
    for part in angles.split(max(1, BLOCK_ENTRIES // (c_out * c_in * aliases))):
        phases = torch.polar(torch.ones_like(part), part)  # off by at most 64·u each
        blocks = torch.einsum("fat,oct->foac", phases, weight.to(phases)).flatten(2)
        largest = _largest_square(blocks, largest)
    rounding = 8 * (taps + 8) * _UNIT * math.sqrt(aliases * taps) * weight.norm()  # of T: Σ|w| ≤ √k·‖w‖ an entry
    return (largest.sqrt() + rounding) / math.sqrt(aliases) * (1 + 8 * _UNIT) * scale


def _largest_square(blocks: Tensor, largest: Tensor) -> Tensor:
    """max(largest, max_i ‖B_i‖₂²) from above, for (count, m, n) of moderate scale.

    Eigenvalues are for the few blocks that might raise it. G = BBᴴ of another is shown to lie below c by a Cholesky
    factorisation of c − G, a fraction of their cost: one that runs to its end has a backward error of at most
    γ_{m+1}·tr(c − G) ≤ 16·m(m + 2)·u·c in norm (Rump, BIT 2006). The order is that of ‖G‖_F ≥ ‖B‖₂².
    """
    if blocks.shape[-2] > blocks.shape[-1]:
        blocks = blocks.mT
    m, n = blocks.shape[-2:]
    grams = blocks @ blocks.mH
    rounding = 8 * n * _UNIT * _squared_frobenius(blocks)
    bounds = _squared_frobenius(grams).sqrt() * (1 + 4 * _UNIT) + rounding
    order = bounds.argsort(descending=True)
    identity = torch.eye(m, dtype=grams.dtype, device=grams.device)
    at, count = 0, 8
    while at < len(order) and not bounds[order[at]] <= largest:
        part = order[at : at + count]
        ceiling = largest * (1 - 16 * m * (m + 2) * _UNIT) - rounding[part]
        failed = torch.linalg.cholesky_ex(ceiling[:, None, None] * identity - grams[part]).info != 0
        if failed.any():
            part = part[failed]
            largest = torch.maximum(largest, _top_eigenvalue(grams[part], rounding[part]).max())
        at, count = at + count, 2 * count
    return largest


def _top_eigenvalue(gram: Tensor, rounding: Tensor) -> Tensor:
    """λ_max from above; the errors of a backward-stable solver are p(m)·u·‖G‖₂, and 16·m is generous for p."""
    top = torch.linalg.eigvalsh(gram)[..., -1].clamp_min(0)
    return (top * (1 + 16 * gram.shape[-1] * _UNIT) + rounding) * (1 + 4 * _UNIT)


def _taps(weight: Tensor, stride: Pair, padding: Pair, size: tuple[int, int], dilation: Pair) -> list[Tensor]:
    """Of each axis, whether output i sees input y by tap t: (n', k, n). ValueError where there is no convolution."""
    if weight.dim() != 4:
        raise ValueError(f"`weight` has shape {tuple(weight.shape)}, a convolution's is (C_out, C_in, kh, kw)")
    taps = []
    for n, k, s, p, d in zip(size, weight.shape[2:], *map(_pair, (stride, padding, dilation)), strict=True):
        if s < 1 or d < 1 or p < 0:
            raise ValueError(f"`stride`, `padding`, `dilation` are {s}, {p}, {d}; the least they can be is 1, 0, 1")
        last = n + 2 * p - (k - 1) * d - 1
        if last < 0:
            raise ValueError(f"`size` {n} with padding {p} is below the kernel's extent {(k - 1) * d + 1}: pad it more")
        starts = torch.arange(0, last + 1, s) - p
        taps.append((starts[:, None] + d * torch.arange(k))[..., None] == torch.arange(n))
    return taps


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _double(w: Tensor) -> Tensor:
    return w.detach().to(torch.complex128 if w.is_complex() else torch.float64)


def _power_of_two(w: Tensor) -> Tensor:
    """What (..., m, n) matrices are divided by, without error, against under- and overflow."""
    return torch.exp2(torch.frexp(w.abs().amax((-2, -1))).exponent.double())


def _squared_frobenius(w: Tensor) -> Tensor:
    return w.abs().square().sum((-2, -1)) * (1 + 4 * math.prod(w.shape[-2:]) * _UNIT)
