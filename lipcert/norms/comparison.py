"""Bounds of the l2 operator norm of a convolution that other work uses, to measure one's own against.

`parseval_norm` and `peck_norm` are sound, rounding included, and loose. `statistical_norm` is right with a probability
over its own random starts, in exact arithmetic: no certificate may rest on it. What certificates use, LMT's Corollary 1
among it, is in `convolution`. LMT is Tsuzuku, Sato and Sugiyama, *Lipschitz-Margin Training*, NeurIPS 2018.
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

    Returns a number in float64. It is what Parseval networks rest on (Cisse et al., ICML 2017), as LMT's Fig. 3 draws
    it: Corollary 1, with an entry in as many windows as the kernel has taps.
    """
    return times_up(matrix_norm(weight.flatten(1)), math.sqrt(weight[0, 0].numel()))


def peck_norm(
    weight: Tensor, stride: PerAxis, padding: PerAxis, size: tuple[int, ...], dilation: PerAxis = 1
) -> Tensor:
    """√n·‖W‖_F, with n the overlap of the windows: sound, being at least the √n·‖W'‖₂ of Corollary 1.

    Arguments and errors are those of `convolution.convolution_norm`. Returns a number in float64.

    It is a reconstruction: LMT's Fig. 3 draws a bound of Frobenius type after Peck et al. (NIPS 2017), and its code has
    ΣW² without a root. The root is taken here to have a norm, and n is that of Corollary 1 to have a bound.
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
    """An upper bound of ‖φ‖₂ by power iteration, and the probability, at most, that it is none (LMT, Theorem 2).

    Arguments: `gram` is φᵀφ on a batch (starts, *shape) in float64; `starts` random vectors, drawn with `seed`, are
    iterated `iterations` times at most, on `device`.

    Returns (the bound, a number; the probability). Raises ValueError below 1 start and 2 iterations.

    With n entries in `shape`, R_k = ‖φᵀφ û_{k−1}‖ and D = n·(R_k − R_{k−1}), one Gaussian start has
    ‖φ‖² ≤ R_k + (D + √(D·(4R_k + D)))/2 except with probability √(2/π); the largest over the starts fails only if they
    all do. The event of one start is the same for every k: that the share of its top component, z₁² of ‖z‖², is at
    least 1/n. That share only grows on the way. R_k² − R_{k−1}² is the variance of λ² over the components, divided by
    R_{k−1}², hence at least (λ₁² − R_{k−1}²)²/(n·R_{k−1}²), from which the theorem follows. So every k holds at once:
    the bound of a start is the least so far, and the iteration may end where it moves by less than 1e-6.
    """
    if starts < 1 or iterations < 2:
        raise ValueError(f"`starts`, `iterations` are {starts}, {iterations}; the least they can be is 1, 2")
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
        d = n * ((norms - before).abs() + 16 * UNIT * norms)  # two norms that agree are known to a rounding
        last, bound = bound, norms + (d + (d * (4 * norms + d)).sqrt()) / 2
        least = torch.minimum(least, bound)
        if ((last - bound).abs() <= 1e-6 * bound).all():
            break
    return times_up(least.max().sqrt(), 1.0), (2 / math.pi) ** (starts / 2)
