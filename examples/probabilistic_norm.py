"""What LMT's Theorem 2 says of the layers of a run, beside their proved norms.

    python examples/probabilistic_norm.py outputs/RUN --starts 2000 --iterations 10 100 1000

LMT (Tsuzuku et al., NeurIPS 2018) calls its norms of convolutions exact. They come from power iterations: a random
start u_0 with n entries is multiplied by φᵀφ and scaled to length 1 again and again, and with R_k the length before
the k-th scaling and D = n·|R_k - R_{k-1}|,

    ‖φ‖² ≤ R_k + (D + √(D·(4 R_k + D))) / 2

holds with probability at least 1 - √(2/π) ≈ 0.20 for a start. The paper takes the largest of 128 starts, which all
fail with probability at most (2/π)^64 ≈ 3e-13. A start with next to nothing of the top singular vector grows as the
second one does for a while: R_k stands still, D vanishes, and the "bound" is the second singular value.
This script counts such starts: the share whose value lies below the norm, the lowest value, and the value of the
paper's rule, each divided by the norm that lipcert proves, which is not more than a millionth above the truth for
layers that it measures as matrices.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator

import torch
from torch import Tensor

import lipcert
from lipcert.frozen.lipschitz import Walk
from lipcert.norms import Operator

OF_THE_PAPER = 128  # starts, of which it takes the largest value


def values(operator: Operator, starts: Tensor, iterations: list[int]) -> Iterator[Tensor]:
    """The square roots (S,) of the right-hand side of Theorem 2, for starts (S, *domain), after each of `iterations`.

    iterations  numbers of multiplications by φᵀφ, in ascending order, from 2 on
    """
    n, u = starts[0].numel(), starts
    before = r = starts.flatten(1).norm(dim=1)
    for k in range(1, iterations[-1] + 1):
        u = operator.transpose(operator.apply(u / r.view(-1, *[1] * (u.dim() - 1))))
        before, r = r, u.flatten(1).norm(dim=1)
        if k in iterations:
            d = n * (r - before).abs()
            yield (r + (d + (d * (4 * r + d)).sqrt()) / 2).sqrt()


class Layers(Walk):
    """Bounds a network as a proof does, and keeps the linear layers that it measures."""

    def __init__(self, network, norm):
        super().__init__(network, norm, self.keep)
        self.layers: list[tuple[Operator, Tensor]] = []

    def keep(self, operator: Operator, norm) -> Tensor:
        norms = operator.norms(norm)
        if operator.groups == 1:
            self.layers.append((operator, norms[0]))
        return norms


def main() -> None:
    parser = argparse.ArgumentParser(description="LMT's probabilistic norms beside proved ones.")
    parser.add_argument("run", help="directory of a run that is certified in l2")
    parser.add_argument("--starts", type=int, default=2000)
    parser.add_argument("--iterations", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--layer", type=int, help="this one alone, from 0 on, the last of the network first")
    given = parser.parse_args()
    network = lipcert.load(given.run).network
    walk = Layers(network, network.norm)
    walk.constant(len(network.operations))
    print("      input -> output   proved norm  steps  starts below  lowest  largest of 128")
    for operator, norm in walk.layers if given.layer is None else [walk.layers[given.layer]]:
        generator = torch.Generator().manual_seed(0)
        starts = torch.randn(given.starts, *operator.domain, dtype=torch.float64, generator=generator)
        outputs = operator.apply(starts[:1])[0].numel()
        for steps, value in zip(given.iterations, values(operator, starts, sorted(given.iterations)), strict=True):
            ratio = value / norm
            of_paper = float(ratio[:OF_THE_PAPER].max())
            below = float((ratio < 1 - 1e-6).double().mean())
            size = f"{math.prod(operator.domain)} -> {outputs}"
            print(
                f"{size:>21} {float(norm):13.4f}  {steps:5d}  {below:11.2%}  {float(ratio.min()):7.4f}  {of_paper:.6f}"
            )


if __name__ == "__main__":
    main()
