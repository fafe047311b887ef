"""Networks and checks for tests of float32: what machines compute, against labels and against rational numbers."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from float32_machine import MACHINES, exact
from frozen_builder import Builder
from torch import Tensor

from lipcert.certificates.pairwise import Pairwise
from lipcert.contracts import Norm
from lipcert.frozen import Network
from lipcert.frozen.deployed import Deployed
from lipcert.frozen.error_walk import Errors
from lipcert.frozen.lipschitz import Walk
from lipcert.frozen.ops.distances import NearestNeighbour

Layers = list[tuple[str, dict[str, Any]]]


def chain(shape: tuple[int, ...], layers: Layers, norm: Norm = Norm.L2) -> Network:
    """Operations one after the other, with constants in float64."""
    builder, value = Builder(0, shape), 0
    for kind, fields in layers:
        numbers = {k: torch.tensor(v, dtype=torch.float64) if isinstance(v, list) else v for k, v in fields.items()}
        value = builder.add(kind, value, **numbers)
    return Network(shape, tuple(builder.operations), norm)


def linear(weight: Any, bias: Any = None) -> tuple[str, dict[str, Any]]:
    return "linear", {"weight": weight, "bias": bias}


RELU: tuple[str, dict[str, Any]] = ("pointwise", {"function": "relu", "parameters": ()})


def small(seed: int, norm: Norm = Norm.L2, far: float = 1.0) -> Network:
    """Two pixels, three neurons, two or three logits; a scaling in between, which is measured with its layer."""
    g = torch.Generator().manual_seed(seed)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    if norm is Norm.LINF:
        layers = [("distance", {"weight": numbers(3, 2), "p": math.inf})]
        layers += [("affine", {"scale": None, "shift": -numbers(3).abs()})]
        return chain((2,), [*layers, ("distance", {"weight": numbers(2, 3), "p": math.inf})], norm)
    scaled = ("affine", {"scale": numbers(3), "shift": numbers(3) * far})
    return chain((2,), [linear(numbers(3, 2), numbers(3)), scaled, RELU, linear(numbers(3, 3), numbers(3))], norm)


def images(network: Network, count: int, seed: int = 0) -> Tensor:
    """Images of float32, in float64: random ones, the first two in corners."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, *network.shape, generator=generator)
    x[:2] = x[:2].round()
    return x.double()


def radii(network: Network, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(labels, radius, radius_float32)."""
    labels = network(x).argmax(1)
    verdict = Pairwise()(network).judge(x, labels)
    assert (verdict.radius_float32 <= verdict.radius).all() and (verdict.radius_float32 >= 0).all()
    return labels, verdict.radius, verdict.radius_float32


def wrong(logits: Tensor, labels: Tensor) -> Tensor:
    """Where a label is not the only largest logit."""
    own = logits.gather(1, labels[:, None])
    return ~(own > logits.scatter(1, labels[:, None], -torch.inf)).all(1)


def around(x: Tensor, radius: Tensor, norm: Norm, side: int = 9) -> tuple[Tensor, Tensor]:
    """All images of float32 on a coarse grid around each image of two pixels that lie within its radius and in [0, 1],
    and of which image each is a neighbour."""
    steps = torch.linspace(-1, 1, side, dtype=torch.float64)
    offsets = torch.cartesian_prod(steps, steps)
    near = (x[:, None] + radius[:, None, None] * offsets).clamp(0, 1).float().double()
    order = 2.0 if norm is Norm.L2 else math.inf
    within = torch.linalg.vector_norm(near - x[:, None], order, dim=2) <= radius[:, None]
    return near[within], torch.arange(len(x))[:, None].expand(len(x), side * side)[within]


def neighbours(points: Tensor, labels: Tensor, classes: int) -> Network:
    shape = tuple(points.shape[1:])
    fields = {"images": points, "labels": labels, "classes": classes}
    return Network(shape, (NearestNeighbour(inputs=(0,), shape=(classes,), **fields),))


def keeps(network: Network, seed: int = 0) -> int:
    """No neighbour within the radius is given another label by any machine; the number of neighbours."""
    x = images(network, 12, seed)
    labels, _, radius = radii(network, x)
    near, of = around(x, radius, network.norm)
    for machine in MACHINES:
        failed = wrong(machine(network, near), labels[of]) & (radius[of] > 0)
        assert not failed.any(), (machine, near[failed])
    return int((radius[of] > 0).sum())


def bounded(network: Network, seed: int = 0, x: Tensor | None = None) -> float:
    """The errors of every machine, of logits and of margins, at images within half of the reach stay below the bounds
    of their ball, for a few reaches. Returns the largest share of a bound of a logit that was reached."""
    single = Deployed(network, Walk(network, network.norm))
    x, largest = images(network, 4, seed) if x is None else x, 0.0
    for reach in (0.0, 0.1, 1.0):
        radius = torch.full((len(x),), reach, dtype=torch.float64)
        found = [errors for _, errors in single.around(x, radius)]
        bound, margins = torch.cat([errors.logits for errors in found]), torch.cat([margins_of(e) for e in found])
        step = reach * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        length = torch.linalg.vector_norm(step, 2.0 if network.norm is Norm.L2 else math.inf, dim=1, keepdim=True)
        near = (x + step * (reach / length.clamp_min(1e-9)).clamp_max(1.0) * 0.999).clamp(0, 1).float().double()
        true = [exact(single.network, image) for image in near]
        for machine in MACHINES:
            computed = machine(network, near).double().tolist()
            for y, e, b, m in zip(computed, true, bound.tolist(), margins.tolist(), strict=True):
                off = [type(due)(got) - due if math.isfinite(got) else math.inf for got, due in zip(y, e, strict=True)]
                for error, most in zip(off, b, strict=True):
                    if most < math.inf:
                        assert abs(float(error)) <= most, (machine, error, most)
                        largest = max(largest, abs(float(error)) / most if most else 0.0)
                for t, i in itertools.permutations(range(len(off)), 2):
                    if m[t][i] < math.inf:
                        assert abs(float(off[t] - off[i])) <= m[t][i], (machine, t, i, off, m)
    return largest


def margins_of(errors: Errors) -> Tensor:
    """The bounds (B, K, K) of the errors of all margins."""
    count = len(errors.logits)
    return torch.stack([errors.of_margins(torch.full((count,), t)) for t in range(errors.logits.shape[1])], 1)
