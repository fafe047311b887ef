"""Upper bounds of the norms of zero-padded convolutions with 1, 2 or 3 spatial axes.

All functions take the kernel `weight` (C_out, C_in, *k), the `stride`, `padding` and `dilation` (one number, or one an
axis), and the spatial `size` of the input. All raise ValueError where there is no such convolution. LMT is Tsuzuku,
Sato and Sugiyama, *Lipschitz-Margin Training*, NeurIPS 2018.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lipcert.norms.fourier import fft_norm
from lipcert.norms.matrix import matrix_norm
from lipcert.norms.rounding import double, sum_up, times_up
from lipcert.norms.windows import PerAxis, axes_of

DENSE_COST = 1e10  # a convolution whose matrix has a Gram matrix of fewer products is measured exactly: a few seconds
DENSE_ENTRIES = 20_000_000  # and of no more entries than this


def convolution_norm(
    weight: Tensor, stride: PerAxis, padding: PerAxis, size: tuple[int, ...], dilation: PerAxis = 1
) -> Tensor:
    """The l2 operator norm of one ungrouped convolution, from above: a number in float64.

    It is the smallest of what is affordable: LMT's Corollary 1, which is exact where windows share no entry; the norm
    of the operator as a matrix, where that is small; otherwise the bound in the Fourier domain. The groups of a grouped
    convolution are measured one by one.
    """
    axes = axes_of(weight, stride, padding, size, dilation)
    bound = corollary1_norm(weight, stride, padding, size, dilation)
    whole = all(bool(a.seen.all(1).any()) for a in axes)  # some window has no padding in it
    if whole and math.prod(a.overlap for a in axes) <= 1:
        return bound
    rows, cols = weight.shape[0] * math.prod(a.outputs for a in axes), weight.shape[1] * math.prod(size)
    if rows * cols <= DENSE_ENTRIES and rows * cols * min(rows, cols) <= DENSE_COST:
        return torch.minimum(bound, matrix_norm(convolution_matrix(weight, stride, padding, size, dilation)))
    return torch.minimum(bound, fft_norm(weight, stride, padding, size, dilation))


def corollary1_norm(
    weight: Tensor, stride: PerAxis, padding: PerAxis, size: tuple[int, ...], dilation: PerAxis = 1
) -> Tensor:
    """√n·‖W'‖₂, at least the l2 operator norm: W' is the kernel as a matrix (C_out, C_in·∏k), and n is the `overlap` of
    the windows (LMT, Corollary 1)."""
    n = overlap(weight, stride, padding, size, dilation)
    return times_up(matrix_norm(weight.flatten(1)), math.sqrt(n))


def overlap(weight: Tensor, stride: PerAxis, padding: PerAxis, size: tuple[int, ...], dilation: PerAxis = 1) -> int:
    """The most windows that any one entry of the input is in, counted.

    Without dilation it is at most LMT's ∏ ⌈min(k, H + 2p − k + 1)/s⌉. With dilation it is at most ⌈k·gcd(s, d)/s⌉ an
    axis: at s = d = 2 all windows have one parity, and an entry of that parity is in k of them.
    """
    return math.prod(axis.overlap for axis in axes_of(weight, stride, padding, size, dilation))


def convolution_matrix(
    weight: Tensor, stride: PerAxis, padding: PerAxis, size: tuple[int, ...], dilation: PerAxis = 1
) -> Tensor:
    """The convolution as a matrix (C_out·∏outputs, C_in·∏size), in the precision of `weight`, without any rounding."""
    axes = axes_of(weight, stride, padding, size, dilation)
    matrix = weight.detach()
    for axis in axes:  # (C_out, C_in, k, ...) to (C_out, C_in, ..., output, entry); no sum has two terms other than 0
        lies_on = axis.positions[..., None] == torch.arange(axis.size)  # (outputs, kernel, size)
        matrix = torch.tensordot(matrix, lies_on.to(matrix), ([2], [1]))
    count = len(axes)
    outputs, entries = range(2, 2 + 2 * count, 2), range(3, 3 + 2 * count, 2)
    return matrix.permute(0, *outputs, 1, *entries).flatten(1 + count).flatten(0, count)


def convolution_norm_linf(
    weight: Tensor,
    stride: PerAxis,
    padding: PerAxis,
    size: tuple[int, ...],
    dilation: PerAxis = 1,
    groups: int = 1,
) -> Tensor:
    """The l_inf operator norm from above, a number (groups,) a group, exact but for rounding.

    Here `weight` is (C_out, C_in/groups, *k). The norm is the largest sum of magnitudes in a row of the operator's
    matrix. The row of an output channel and a window has the magnitudes of those taps that lie on the image.
    """
    axes = axes_of(weight, stride, padding, size, dilation)
    magnitudes = double(weight).abs().unflatten(0, (groups, -1))
    return _largest_sum(magnitudes.sum(2), [axis.seen for axis in axes], weight[0].numel())


def convolution_norm_l1(
    weight: Tensor,
    stride: PerAxis,
    padding: PerAxis,
    size: tuple[int, ...],
    dilation: PerAxis = 1,
    groups: int = 1,
) -> Tensor:
    """The l1 operator norm from above, a number (groups,) a group, exact but for rounding.

    Here `weight` is (C_out, C_in/groups, *k). The norm is the largest sum of magnitudes in a column of the operator's
    matrix. The column of an input channel and an entry has the magnitudes, over all output channels of the group, of
    those taps that lie on the entry in some window: with a stride these are not all taps.
    """
    axes = axes_of(weight, stride, padding, size, dilation)
    magnitudes = double(weight).abs().unflatten(0, (groups, -1))
    return _largest_sum(magnitudes.sum(1), [axis.reached for axis in axes], weight[:, 0].numel() // groups)


def _largest_sum(magnitudes: Tensor, taps: list[Tensor], terms: int) -> Tensor:
    """The largest sum (G,) over the kernel (G, C, *k), restricted to a set of taps on each axis.

    `taps` has the sets to choose from, of each axis: (sets, k). `terms` is how many numbers a sum has at most.
    """
    for sets in taps:
        chosen = sets.unique(dim=0).to(magnitudes)
        magnitudes = torch.tensordot(magnitudes, chosen, ([2], [1]))
    return sum_up(magnitudes.flatten(1).amax(1), terms)
