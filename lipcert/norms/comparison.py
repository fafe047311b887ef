"""Bounds of the l2 operator norm of a convolution from other work, for comparison.

`parseval_norm` and `peck_norm` are sound, rounding included, but loose. `statistical_norm` holds with a probability
over its own random starts, in exact arithmetic, so that no proof may use it. The bounds that proofs use, among them
LMT's Corollary 1, are in `convolution`. LMT is Tsuzuku, Sato and Sugiyama, *Lipschitz-Margin Training*, NeurIPS 2018.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lipcert.norms.convolution import overlap
from lipcert.norms.matrix import matrix_norm
from lipcert.norms.rounding import UNIT, times_up
from lipcert.norms.windows import PerAxis


def parseval_norm(weight: Tensor) -> Tensor:
    """√(∏k)·‖W'‖₂, with W' the kernel as a matrix: sound at any stride, zero padding, dilation and size.

    Arguments: `weight` (C_out, C_in, *k), of one group. W' is (C_out, C_in·∏k).

    Returns a number in float64. It is the bound behind Parseval networks (Cisse et al., ICML 2017) as in LMT's Fig. 3:
    Corollary 1 for an entry that is in as many windows as the kernel has taps.
    """
    return times_up(matrix_norm(weight.flatten(1)), math.sqrt(weight[0, 0].numel()))


def peck_norm(
    weight: Tensor, stride: PerAxis, padding: PerAxis, size: tuple[int, ...], dilation: PerAxis = 1
) -> Tensor:
    """√n·‖W‖_F, with n the overlap of the windows: sound, because it is at least the √n·‖W'‖₂ of Corollary 1.

    Arguments and errors are those of `convolution.convolution_norm`. Returns a number in float64.

    It is a reconstruction. LMT's Fig. 3 shows a bound of Frobenius type after Peck et al. (NIPS 2017), for which its
    code has ΣW² without a root. The root makes it a norm, and the n of Corollary 1 makes it a bound.
    """
    n = overlap(weight, stride, padding, size, dilation)
    return times_up(matrix_norm(weight.flatten()[None]), math.sqrt(n))


def statistical_norm(
    gram: Callable[[Tensor], Tensor],
    shape: tuple[int, ...],
    *,
    starts: int = 128,
    iterations: int = 1000,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, float]:
    """An estimate of ‖φ‖₂ by power iteration, and a bound of the probability that it is below ‖φ‖₂ (LMT, Theorem 2).

    Arguments: `gram` is φᵀφ on a batch (starts, *shape) in float64; `starts` random vectors, drawn with `seed`, are
    iterated at most `iterations` times, on `device`.

    Returns (the estimate, a number in float64; the probability). Raises ValueError below 1 start and 2 iterations.

    With n entries in `shape`, R_k = ‖φᵀφ û_{k−1}‖ and D = n·(R_k − R_{k−1}), one Gaussian start z has ‖φ‖² ≤ R_k + (D +
    √(D·(4R_k + D)))/2 unless an event of probability at most √(2/π) occurs; the largest over the starts fails only if
    all of them do. That event is z₁² < ‖z‖²/n, for the top component z₁. It does not depend on k, because the share of
    the top component only grows. R_k² − R_{k−1}² is the variance of λ² over the components, divided by R_{k−1}², hence
    at least (λ₁² − R_{k−1}²)²/(n·R_{k−1}²), from which the theorem follows. So the bounds for all k hold together: a
    start's bound is its smallest so far, and the iteration may end where it changes by less than 1e-6.
    """
    if starts < 1 or iterations < 2:
        raise ValueError(f"`starts`, `iterations` are {starts}, {iterations}; they must be at least 1, 2")
    n = math.prod(shape)
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(starts, *shape, dtype=torch.float64, generator=generator).to(device)
    norms = u.flatten(1).norm(dim=1)
    bound = least = torch.full_like(norms, math.inf)
    for k in range(iterations):
        u = gram(u / norms.clamp_min(torch.finfo(u.dtype).tiny).view(-1, *[1] * len(shape)))
        before, norms = norms, u.flatten(1).norm(dim=1)
        if k == 0:
            continue
        d = n * ((norms - before).abs() + 16 * UNIT * norms)  # equal norms agree only up to rounding
        last, bound = bound, norms + (d + (d * (4 * norms + d)).sqrt()) / 2
        least = torch.minimum(least, bound)
        if ((last - bound).abs() <= 1e-6 * bound).all():
            break
    return times_up(least.max().sqrt(), 1.0), (2 / math.pi) ** (starts / 2)
