"""Upper bounds of the norms of zero-padded convolutions with 1, 2 or 3 spatial axes.

All functions take the kernel `weight` (C_out, C_in, *k), the `stride`, `padding` and `dilation` (one number, or one per
axis), and the spatial `size` of the input. All raise ValueError where there is no such convolution. LMT is Tsuzuku,
Sato and Sugiyama, *Lipschitz-Margin Training*, NeurIPS 2018.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lipcert.contracts import Norm
from lipcert.norms.fourier import fft_norm
from lipcert.norms.matrix import matrix_norm
from lipcert.norms.rounding import double, sum_up, times_up
from lipcert.norms.windows import PerAxis, axes_of

DENSE_COST = 1e10  # products for the Gram matrix of a convolution's matrix, up to which it is formed: a few seconds
DENSE_ENTRIES = 20_000_000  # entries of that matrix, up to which it is formed


def convolution_norm(
    weight: Tensor, stride: PerAxis, padding: PerAxis, size: tuple[int, ...], dilation: PerAxis = 1
) -> Tensor:
    """The l2 operator norm of one ungrouped convolution, from above: a number in float64.

    It is the smallest of the affordable bounds: LMT's Corollary 1, which is exact where windows share no entry; the
    norm of the operator's matrix, where that is small; otherwise the bound in the Fourier domain. The groups of a
    grouped convolution are measured one by one.
    """
    axes = axes_of(weight, stride, padding, size, dilation)
    bound = corollary1_norm(weight, stride, padding, size, dilation)
    whole = all(bool(a.seen.all(1).any()) for a in axes)  # some window contains no padding
    if whole and math.prod(a.overlap for a in axes) <= 1:
        return bound
    rows, cols = weight.shape[0] * math.prod(a.outputs for a in axes), weight.shape[1] * math.prod(size)
    if rows * cols <= DENSE_ENTRIES and rows * cols * min(rows, cols) <= DENSE_COST:
        return torch.minimum(bound, matrix_norm(convolution_matrix(weight, stride, padding, size, dilation)))
    return torch.minimum(bound, fft_norm(weight, stride, padding, size, dilation))


def corollary1_norm(
    weight: Tensor, stride: PerAxis, padding: PerAxis, size: tuple[int, ...], dilation: PerAxis = 1
) -> Tensor:
    """√n·‖W'‖₂, which is at least the l2 operator norm (LMT, Corollary 1).

    W' is the kernel as a matrix (C_out, C_in·∏k), and n is the `overlap` of the windows.
    """
    n = overlap(weight, stride, padding, size, dilation)
    return times_up(matrix_norm(weight.flatten(1)), math.sqrt(n))


def overlap(weight: Tensor, stride: PerAxis, padding: PerAxis, size: tuple[int, ...], dilation: PerAxis = 1) -> int:
    """The largest number of windows that contain one entry of the input, by counting.

    Without dilation it is at most LMT's ∏ ⌈min(k, H + 2p − k + 1)/s⌉. With dilation it is at most ⌈k·gcd(s, d)/s⌉ per
    axis: at s = d = 2 the taps of all windows have the same parity, and an entry of that parity is in k windows.
    """
    return math.prod(axis.overlap for axis in axes_of(weight, stride, padding, size, dilation))


def convolution_matrix(
    weight: Tensor, stride: PerAxis, padding: PerAxis, size: tuple[int, ...], dilation: PerAxis = 1
) -> Tensor:
    """The convolution's matrix (C_out·∏outputs, C_in·∏size), in the precision of `weight`, without rounding."""
    axes = axes_of(weight, stride, padding, size, dilation)
    matrix = weight.detach()
    for axis in axes:  # (C_out, C_in, k, ...) to (C_out, C_in, ..., output, entry); no sum has two terms other than 0
        lies_on = axis.positions[..., None] == torch.arange(axis.size)  # (outputs, kernel, size)
        matrix = torch.tensordot(matrix, lies_on.to(matrix), ([2], [1]))
    count = len(axes)
    outputs, entries = range(2, 2 + 2 * count, 2), range(3, 3 + 2 * count, 2)
    return matrix.permute(0, *outputs, 1, *entries).flatten(1 + count).flatten(0, count)


def convolution_sum_norm(
    norm: Norm, weight: Tensor, stride: PerAxis, padding: PerAxis, size: tuple[int, ...], dilation: PerAxis, groups: int
) -> Tensor:
    """The l_inf or l1 operator norm of each group from above, (groups,), exact except for rounding.

    Here `weight` is (C_out, C_in/groups, *k). In l_inf the norm is the largest sum of magnitudes in a row of the
    operator's matrix. The row of an output channel and a window holds the magnitudes of those taps that lie on the
    image. In l1 it is the largest sum in a column. The column of an input channel and an entry holds the magnitudes,
    over all output channels of the group, of those taps that lie on the entry in some window, which with a stride are
    not all taps.
    """
    axes = axes_of(weight, stride, padding, size, dilation)
    rows = norm is Norm.LINF
    magnitudes = double(weight).abs().unflatten(0, (groups, -1)).sum(2 if rows else 1)
    for axis in axes:
        sets = (axis.seen if rows else axis.reached).unique(dim=0)  # of taps, (sets, k)
        magnitudes = torch.tensordot(magnitudes, sets.to(magnitudes), ([2], [1]))
    return sum_up(magnitudes.flatten(1).amax(1), weight[0].numel() if rows else weight[:, 0].numel() // groups)
