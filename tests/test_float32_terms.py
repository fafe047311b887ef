"""Every term of the error bound of float32 is needed: without it, what some machine computes is beyond the bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from float32_cases import RELU, bounded, chain, linear, neighbours, radii, small
from torch import Tensor

from lipcert.certificates.interval import Interval
from lipcert.certificates.pairwise import Pairwise, proved_radius
from lipcert.contracts import Norm
from lipcert.frozen import Network, deployed
from lipcert.frozen.arithmetic import FLOAT32, FLOAT64, Arithmetic
from lipcert.frozen.deployed import Deployed
from lipcert.frozen.error_walk import Errors, ErrorWalk
from lipcert.frozen.lipschitz import Walk
from lipcert.frozen.ops.affine import Affine, lengths
from lipcert.frozen.ops.distances import Distance, NearestNeighbour
from lipcert.frozen.ops.linear import Linear
from lipcert.frozen.ops.pointwise import Pointwise
from lipcert.frozen.pairs import pair_bounds
from lipcert.frozen.rounding import Roundings

UNIT = 2.0**-24


def staircase() -> Network:
    """Sums whose every addition rounds up by half a unit: the error is that of the longest chain."""
    n, step = 60, UNIT * (1 + 2.0**-20)
    return chain((n,), [linear([[1.0] + [step] * (n - 1), [0.5] + [0.25] * (n - 1)])])


def ones(network: Network) -> Tensor:
    return torch.ones(1, *network.shape, dtype=torch.float64)


def test_the_bound_of_a_sum_is_nearly_reached():
    assert bounded(staircase(), x=ones(staircase())) > 0.9


def two_layers() -> Network:
    """The first one rounds, the second one has powers of two and rounds nothing."""
    return chain((2,), [linear([[1 / 3, 1 / 7], [1 / 5, 1 / 11]], [0.1, 0.2]), linear([[64.0, 0.0], [0.0, 64.0]])])


def scaled_rows() -> Network:
    """A layer with a large rounding error, and a scaling of its rows by powers of two, measured with it."""
    first = staircase().operations[0]
    scale = ("affine", {"scale": [2.0**20, 2.0**20], "shift": None})
    return chain(staircase().shape, [linear(first.weight), scale])  # type: ignore[attr-defined]


def read_on() -> Network:
    """The same layer, read by one that rounds nothing."""
    first = staircase().operations[0]
    return chain(staircase().shape, [linear(first.weight), linear([[64.0, 0.0], [0.0, 64.0]])])  # type: ignore[attr-defined]


def read_with_both_signs() -> tuple[Network, Tensor]:
    """An image, and one sum of products, each of which rounds up: it is read with both signs by a layer that rounds
    nothing. The bound of the error in norm is nearly reached, as weights and image are nearly parallel."""
    n, root = 60, 2.0**-12
    network = chain((n,), [linear([[1.0] + [root * (1 + 2.0**-20)] * (n - 1)]), linear([[64.0], [-64.0]])])
    return network, torch.tensor([[1.0] + [root] * (n - 1)], dtype=torch.float64)


def offsets() -> Network:
    """Offsets that are far larger than what they are added to."""
    return chain((2,), [linear([[1.0, 0.0], [0.0, 1.0]], [1e6, 1e6])])


def still_centre() -> tuple[Network, Tensor]:
    """An image at which all values are 0, with others around it."""
    return chain((2,), [linear([[1 / 3, -1 / 7], [1 / 5, -1 / 11]])]), torch.zeros(1, 2, dtype=torch.float64)


def flushing() -> Iterator[Network]:
    for down, up in ((2.0**-130, 2.0**120), (2.0**-60, 2.0**60)):
        yield chain(
            (2,), [linear([[down, 0.0], [0.0, down]]), linear([[down, 0], [0, down]]), linear([[up, 0], [0, up]])]
        )
    yield chain((2,), [("distance", {"weight": [[2.0**-130, 0.0]], "p": math.inf})], Norm.LINF)


def growing(network: Network) -> None:
    """The norms of the constants in float32 are those of the pairs of logits, although the float64 ones are smaller."""
    walk = Walk(network, network.norm)
    pair_bounds(walk)
    single = Deployed(network, walk)
    due = pair_bounds(Walk(single.network, network.norm)).smallest()
    assert bool((single.pairs >= due * (1 - 1e-11)).all())


def rounded_up() -> Network:
    """Constants each of which float32 rounds away from 0."""
    up = 1 + 2.0**-23 - 2.0**-26
    return chain((2,), [linear([[up, up], [-up, -up]])])


def neighbours_bounded() -> None:
    """Stored images so close to one another that float32 does not find the nearest one by squared distances."""
    points = torch.full((65, 64), 255, dtype=torch.uint8)
    points[range(64), range(64)] = 254
    network = neighbours(points, torch.zeros(65, dtype=torch.int64), 1)
    x = (1 - 0.48 / 255 * torch.eye(64, dtype=torch.float64)).float().double()
    bound = torch.cat(
        [e.logits for _, e in Deployed(network, Walk(network, Norm.L2)).around(x, torch.zeros(64).double())]
    )
    assert ((network.to(dtype=torch.float32)(x.float()).double() - network(x)).abs() <= bound).all()


def margin_of_distances() -> None:
    """A distance of float32 errs by its last rounding."""
    bounded(chain((2,), [("distance", {"weight": [[-3.3, 0.1], [0.7, -5.1]], "p": math.inf})], Norm.LINF))


def interval_heads() -> None:
    """An eps that only float64 proves: the offsets are too large for float32."""
    network = chain((2,), [linear([[1.0, 0.0], [0.0, 1.0]], [1e7, 1e7])], Norm.LINF)
    x = torch.tensor([[0.5, 0.2]]).double()
    verdict = Interval()(network).judge(x, torch.zeros(1, dtype=torch.int64))
    assert verdict.radius > 0.1 and verdict.radius_float32 == 0


def cut() -> None:
    """A cut at 0.7, which float32 rounds down: a pixel below it becomes equal to one above it."""
    network = chain((2,), [("pointwise", {"function": "clamp", "parameters": (0.0, 0.7)})], Norm.LINF)
    below = float(torch.tensor(0.7))
    verdict = Interval(tolerance=1e-10)(network).judge(
        torch.tensor([[below - 2.0**-12, 1.0]]).double(), torch.tensor([1])
    )
    tie = network.to(dtype=torch.float32)(torch.tensor([[below, 1.0]]))
    assert tie[0, 0] == tie[0, 1] and 0 < verdict.radius_float32 < 2.0**-12 < verdict.radius


def overflowing() -> None:
    network = chain((2,), [linear([[s, 0], [0, s]]) for s in (1e20, 1e20, 1e-20, 1e-20)])
    assert radii(network, torch.tensor([[1.0, 0.98]]).double())[2] == 0


def centre_in_doubt() -> None:
    """Values at the centre are only as exact as float64 made them: here as if it had made 0 of all of them."""
    first, last = (operation.weight for operation in two_layers().operations)  # type: ignore[attr-defined]
    network = chain((2,), [linear(first, [0.1, 0.2]), linear(first), linear(last)])
    of = Roundings(network, Walk(network, Norm.L2))
    x = torch.tensor([[1.0, 1.0]]).double()
    values = network.values(x)
    doubt = replace(of.in_float64, entries=[v.abs() for v in values], lengths=[v.norm(dim=1) for v in values])
    of.for_all[FLOAT64] = doubt
    bound = of.around([x, *(0 * v for v in values[1:])], torch.zeros(1).double(), FLOAT32).logits
    usual = Roundings(network, Walk(network, Norm.L2)).around(values, torch.zeros(1).double(), FLOAT32).logits
    assert (bound >= usual * (1 - 1e-9)).all()


def centre_of_margins() -> None:
    """The error of the logits that float64 computed at the centre is subtracted from the margin."""
    network, x = two_layers(), torch.tensor([[1.0, 0.5]]).double()
    bound = Pairwise()(network)
    label = network(x).argmax(1)
    before = bound.judge(x, label).radius_float32
    bound.deployed.errors = bound.deployed.errors + 1.0
    after: Any = bound.judge(x, label).radius_float32
    assert after <= before - 1.9 / bound.deployed.pairs.max()


GAMMA, ADD, NEAR = Arithmetic.gamma, ErrorWalk.add, NearestNeighbour.rounded_near
HEAD, MARGINS = Roundings.__dict__["head"], Errors.of_margins
MUTANTS: dict[str, tuple[Callable[[Any], None], Callable[[], Any]]] = {
    "nothing rounds": (lambda m: m.setattr(Arithmetic, "gamma", lambda self, n: 0.0), lambda: bounded(two_layers())),
    "a sum rounds once": (
        lambda m: m.setattr(Arithmetic, "gamma", lambda self, n: GAMMA(self, min(n, 2))),
        lambda: bounded(staircase(), x=ones(staircase())),
    ),
    "a sum of n rounds n/2 times": (
        lambda m: m.setattr(Arithmetic, "gamma", lambda self, n: GAMMA(self, n // 2)),
        lambda: bounded(staircase(), x=ones(staircase())),
    ),
    "offsets do not round": (
        lambda m: m.setattr(Linear, "offset", lambda self: None),
        lambda: bounded(offsets()),
    ),
    "nothing underflows": (
        lambda m: m.setattr(deployed, "FLOAT32", replace(FLOAT32, tiny=0.0)),
        lambda: [bounded(network) for network in flushing()],
    ),
    "only operations that round flush": (
        lambda m: m.setattr(ErrorWalk, "add", lambda self, own, more, norm: ADD(self, own - own.min(), more, norm)),
        lambda: bounded(
            chain((2,), [RELU, linear([[2.0**60, 0], [0, 2.0**60]])]), x=torch.full((1, 2), 2.0**-140).double()
        ),
    ),
    "errors of earlier layers are not passed on": (
        lambda m: m.setattr(ErrorWalk, "checked", lambda self, value, constant, part: self.own(value, part)),
        lambda: bounded(read_on(), x=ones(read_on())),
    ),
    "the error of a layer before its scaling is forgotten": (
        lambda m: m.setattr(ErrorWalk, "checked", lambda s, value, c, part: s.total([c, s.own(value, part)])),
        lambda: bounded(scaled_rows(), x=ones(scaled_rows())),
    ),
    "only the centre rounds": (
        lambda m: m.setattr(
            ErrorWalk, "add", lambda s, own, more, norm: ADD(s, own, more * 0, torch.full_like(norm, math.inf))
        ),
        lambda: bounded(*still_centre()[:1], x=still_centre()[1]),
    ),
    "values at the centre are exact": (
        lambda m: m.setattr("lipcert.frozen.error_pass.Pass.off", lambda self, number: 0 * self.values[number]),
        centre_in_doubt,
    ),
    "values at the centre are exact in norm": (
        lambda m: m.setattr(
            "lipcert.frozen.error_pass.Pass.norm_on_the_ball", lambda self, n: lengths(self.values[n], self.norm)
        ),
        centre_in_doubt,
    ),
    "errors of margins grow half as much in the last layer": (
        lambda m: m.setattr(Roundings, "head", property(lambda self: HEAD.func(self) / 2)),
        lambda: bounded(read_with_both_signs()[0], x=read_with_both_signs()[1]),
    ),
    "the last layer adds nothing to the errors of margins": (
        lambda m: m.setattr(
            Errors, "of_margins", lambda e, t: MARGINS(replace(e, head=(*e.head[:2], 0 * e.logits)), t)
        ),
        lambda: bounded(offsets()),
    ),
    "margins at the centre are exact": (
        lambda m: m.setattr(
            "lipcert.certificates.pairwise.proved_radius",
            lambda y, labels, pairs, lost: proved_radius(y, labels, pairs, lost.clamp_max(0.1)),
        ),
        centre_of_margins,
    ),
    "norms are those of the constants in float64": (
        lambda m: m.setattr(deployed.NearbyWalk, "computed", lambda self, key, operator: self.base.norms[key]),
        lambda: growing(rounded_up()),
    ),
    "a distance does not round": (
        lambda m: m.setattr(Distance, "rounded", lambda self, arithmetic, size, *sizes: 0 * size),
        margin_of_distances,
    ),
    "in l_inf, errors of earlier layers are not passed on": (
        lambda m: m.setattr(
            "lipcert.frozen.error_pass.Pass.passed", lambda self, number: torch.zeros_like(self.values[number])
        ),
        lambda: [bounded(small(seed, Norm.LINF), seed) for seed in range(4)],
    ),
    "a scaling does not round": (
        lambda m: m.setattr(Affine, "rounded", lambda self, arithmetic, size, *sizes: 0 * size),
        lambda: bounded(chain((2,), [("affine", {"scale": [1 / 3], "shift": [0.1]})])),
    ),
    "the search for the nearest image is exact": (
        lambda m: m.setattr(
            NearestNeighbour, "rounded_near", lambda s, a, least, size, *sizes: NEAR(s, a, least + 1e9, size, *sizes)
        ),
        neighbours_bounded,
    ),
    "nothing overflows": (
        lambda m: m.setattr("lipcert.frozen.error_pass.overflows", lambda a, size, own, last: torch.zeros(1).bool()),
        overflowing,
    ),
    "parameters of functions are those of float64": (
        lambda m: m.setattr(Pointwise, "_of_parameters", lambda self, arithmetic: 0.0),
        cut,
    ),
    "interval heads are those of float64": (
        lambda m: m.setattr("lipcert.certificates.interval.CAREFUL", FLOAT64),
        interval_heads,
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_every_term_is_needed(name, monkeypatch):
    change, check = MUTANTS[name]
    check()
    change(monkeypatch)
    with pytest.raises(AssertionError):
        check()
