"""Theorem 4.1 of Zhang et al. (ICML 2021) by construction: a net of l_inf-distance neurons near a 1-Lipschitz function.

    python examples/universal_approximation.py --points 6 11

The net is f_n(x) = r + max_i (f(x_i) - ‖x - x_i‖_∞) over the points x_i of a grid: McShane's extension of f from the
grid, raised by r, within which every x has a point of the grid. The extension is 1-Lipschitz and equals f at these
points, so that it lies between f - 2r and f: the error is at most r.
Every layer is a stock layer of d + 2 neurons: d pass the input on, one holds T = ‖x - x_i‖_∞ of the point at hand, and
one holds A, the largest f(x_j) - ‖x - x_j‖_∞ so far. Two layers a point suffice:

    T ← max_k (x_k - x_ik),           A ← max(A, f(x_j) - T), j the point before
    T ← max(T, max_k (x_ik - x_k)),   A ← A

A neuron ‖z - w‖_∞ + b is max_k |z_k - w_k| + b: an input with w_k = -C counts as z_k + C, one with w_k = C as C - z_k,
and one with w_k = 0 does not count, where C is more than all of them are apart.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

import lipcert
from lipcert.layers import DistanceLinear

FAR = 16.0  # C above: inputs, T and A stay within 1 + the range of f


def approximation(f: Callable[[Tensor], Tensor], dimension: int, points: int) -> nn.Sequential:
    """The net for f on [0, 1]^d, by a grid of points^d; it maps (B, d) to (B, 1).

    f  maps (B, d) to (B,), is 1-Lipschitz in l_inf, and lies within [-4, 4]
    """
    steps = [(2 * k + 1) / (2 * points) for k in range(points)]
    grid = torch.tensor(list(itertools.product(steps, repeat=dimension)), dtype=torch.float64)
    values, layers, before = f(grid), [], -4.0
    for x, value in zip(grid, values.tolist(), strict=True):
        layers += [_first(x, before, not layers), _second(x)]
        before = value
    return nn.Sequential(*layers, _last(dimension, before, 1 / (2 * points)))


def _layer(dimension: int, inputs: int, t: Tensor, t_bias: float, a: Tensor, a_bias: float) -> DistanceLinear:
    """A layer that passes x on, and has neurons for T and A with those weights."""
    layer = DistanceLinear(inputs, dimension + 2, bias=True).double()
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:dimension, :dimension] = -FAR * torch.eye(dimension, dtype=torch.float64)
        layer.weight[dimension, : len(t)], layer.weight[dimension + 1, : len(a)] = t, a
        layer.bias.copy_(torch.tensor([-FAR] * dimension + [t_bias, a_bias], dtype=torch.float64))
    return layer


def _first(x: Tensor, value: float, begins: bool) -> DistanceLinear:
    """T is the largest x_k - x_ik; A the larger of A and `value` - T, or at the beginning below all of f."""
    d = len(x)
    if begins:  # the inputs are x alone: A is max_k |x_k| - 5
        return _layer(d, d, x - FAR, -FAR, torch.zeros(d, dtype=torch.float64), -5.0)
    t = torch.cat([x - FAR, torch.zeros(2, dtype=torch.float64)])
    a = torch.zeros(d + 2, dtype=torch.float64)
    a[d], a[d + 1] = FAR + value, -FAR  # |T - (C + value)| = C + value - T, and A + C
    return _layer(d, d + 2, t, -FAR, a, -FAR)


def _second(x: Tensor) -> DistanceLinear:
    """T is the larger of T and the largest x_ik - x_k; A stays."""
    d = len(x)
    t = torch.cat([x + FAR, torch.tensor([-FAR, 0.0], dtype=torch.float64)])
    a = torch.zeros(d + 2, dtype=torch.float64)
    a[d + 1] = -FAR
    return _layer(d, d + 2, t, -FAR, a, -FAR)


def _last(dimension: int, value: float, radius: float) -> DistanceLinear:
    """The larger of A and `value` - T, raised by r."""
    layer = DistanceLinear(dimension + 2, 1, bias=True).double()
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[0, dimension], layer.weight[0, dimension + 1] = FAR + value, -FAR
        layer.bias.fill_(radius - FAR)
    return layer


def waves(x: Tensor) -> Tensor:
    """A function that is 1-Lipschitz in l_inf: its gradient's l1 norm is at most 1."""
    return (torch.sin(2 * math.pi * x) / (2 * math.pi * x.shape[1])).sum(1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Nets of l_inf-distance neurons that approximate a function.")
    parser.add_argument("--points", type=int, nargs="+", default=[6, 11], help="of the grid, along each axis")
    parser.add_argument("--dimension", type=int, default=2)
    given = parser.parse_args()
    print("points  layers  width  largest error  proved bound of it  proved Lipschitz bound")
    for points in given.points:
        net = approximation(waves, given.dimension, points)
        at = torch.rand(200_000, given.dimension, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        with torch.no_grad():
            error = max(float((net(x)[:, 0] - waves(x)).abs().max()) for x in at.split(10_000))
        logits = nn.Sequential(nn.Flatten(), net)
        bound = lipcert.lipschitz_bound(logits, (1, 1, given.dimension), norm="linf")
        line = (
            points**given.dimension,
            len(net),
            given.dimension + 2,
            error,
            1 / (2 * points),
            float(bound.logits.max()),
        )
        print("{:6d}  {:6d}  {:5d}  {:13.4f}  {:18.4f}  {:22.6f}".format(*line))


if __name__ == "__main__":
    main()
