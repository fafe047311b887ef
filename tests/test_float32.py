"""The radius of a network as it is deployed in float32: on no machine does an image within it get another label.

Also what must not pass, and that every term of the error bound is needed: without it, one of these checks fails.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from float32_machine import MACHINES, Machine, exact
from frozen_builder import Builder
from torch import Tensor

from lipcert.certificates.interval import Interval
from lipcert.certificates.pairwise import Pairwise, proved_radius
from lipcert.certificates.statistical import Statistical
from lipcert.contracts import Norm
from lipcert.frozen import Network, deployed
from lipcert.frozen.arithmetic import FLOAT32, FLOAT64, Arithmetic
from lipcert.frozen.deployed import Deployed
from lipcert.frozen.error_walk import ErrorWalk
from lipcert.frozen.lipschitz import Walk
from lipcert.frozen.ops.affine import Affine, lengths
from lipcert.frozen.ops.distances import Distance, NearestNeighbour
from lipcert.frozen.ops.linear import Linear
from lipcert.frozen.pairs import pair_bounds
from lipcert.frozen.rounding import Roundings, rounding

UNIT = 2.0**-24
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
    """The error of every machine at images within half of the reach stays below the bound of their ball, for a few
    reaches. Returns the largest share of a bound that was reached."""
    single = Deployed(network, Walk(network, network.norm))
    x, largest = images(network, 4, seed) if x is None else x, 0.0
    for reach in (0.0, 0.1, 1.0):
        radius = torch.full((len(x),), reach, dtype=torch.float64)
        bound = torch.cat([errors for _, errors in single.around(x, radius)])
        step = reach * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        length = torch.linalg.vector_norm(step, 2.0 if network.norm is Norm.L2 else math.inf, dim=1, keepdim=True)
        near = (x + step * (reach / length.clamp_min(1e-9)).clamp_max(1.0) * 0.999).clamp(0, 1).float().double()
        true = [exact(single.network, image) for image in near]
        for machine in MACHINES:
            for y, e, b in zip(machine(network, near).double().tolist(), true, bound.tolist(), strict=True):
                for got, due, most in zip(y, e, b, strict=True):
                    if most < math.inf:
                        error = abs(float(type(due)(got) - due)) if math.isfinite(got) else math.inf
                        assert error <= most, (machine, error, most)
                        largest = max(largest, error / most if most else 0.0)
    return largest


# ---- what holds


@pytest.mark.parametrize("norm", [Norm.L2, Norm.LINF])
def test_no_neighbour_on_a_grid_has_another_label_on_any_machine(norm):
    assert sum(keeps(small(seed, norm), seed) for seed in range(6)) > 500


@pytest.mark.parametrize("norm", [Norm.L2, Norm.LINF])
def test_errors_stay_below_their_bounds(norm):
    assert max(bounded(small(seed, norm), seed) for seed in range(4)) > (0.02 if norm is Norm.L2 else 0.2)


def test_near_ties_of_random_networks():
    """Logits whose differences are of the size of a rounding error: a machine that is wrong meets a radius of 0, and
    there are such machines."""
    caught = 0
    for seed in range(12):
        network, x = small(seed), images(small(seed), 1, seed + 1)
        gap = network(x)[0]
        last = network.operations[-1]
        for size in (3e-8, 1e-7, 1e-6, 1e-4):
            bias = last.bias - gap + torch.tensor([size, 0.0, 0.0]).double()  # type: ignore[attr-defined]
            near = replace(network, operations=(*network.operations[:-1], replace(last, bias=bias)))
            labels, radius, single = radii(near, x)
            failed = functools.reduce(torch.logical_or, [wrong(machine(near, x), labels) for machine in MACHINES])
            assert not (failed & (single > 0)).any()
            caught += int((failed & (radius > 1e-9)).sum())
    assert caught > 5


def test_local_search_over_single_units_of_pixels():
    """Jin et al.: from each of the worst images within the radius, the neighbours one unit in the last place away."""
    network = small(3)
    x = images(network, 30)
    labels, _, radius = radii(network, x)
    kept = radius > 1e-3
    x, labels, radius = x[kept], labels[kept], radius[kept]
    y = network(x)
    rival = y.scatter(1, labels[:, None], -torch.inf).argmax(1)
    point = x.clone().requires_grad_()
    out = network(point)
    slope = torch.autograd.grad((out.gather(1, rival[:, None]) - out.gather(1, labels[:, None])).sum(), point)[0]
    worst = x + slope * (radius / slope.norm(dim=1))[:, None] * (1 - 1e-6)
    for step in [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)]:
        single = worst.clamp(0, 1).float()
        towards = torch.tensor(step, dtype=torch.float32)
        moved = torch.where(towards == 0, single, torch.nextafter(single, single + towards)).clamp(0, 1)
        inside = (moved.double() - x).norm(dim=1) <= radius
        for machine in MACHINES:
            assert not (wrong(machine(network, moved), labels) & inside).any()


def test_a_tie_found_by_bisection_lies_outside():
    network = small(0)
    x = images(network, 40)
    labels, _, radius = radii(network, x)
    one, machine = int(labels[0]), Machine("backward")
    a, b = x[0].float(), x[labels != one][0].float()
    for _ in range(60):
        middle = ((a.double() + b.double()) / 2).float()
        same = machine(network, middle[None]).argmax(1) == one
        a, b = (middle, b) if bool(same) else (a, middle)
    for index in (labels == one).nonzero()[:, 0].tolist():
        assert (b.double() - x[index]).norm() > radius[index]
    assert radii(network, a.double()[None])[2] < 1e-6


def test_batches_threads_and_permuted_hidden_units():
    """What torch computes in float32, one image or many at a time, differs by less than the bounds."""
    generator = torch.Generator().manual_seed(0)
    w, v = torch.randn(256, 64, generator=generator) / 8, torch.randn(5, 256, generator=generator) / 16
    network = chain((64,), [linear(w.double()), RELU, linear(v.double())])
    x, order = images(network, 500), torch.randperm(256, generator=generator)
    other = chain((64,), [linear(w[order].double()), RELU, linear(v[:, order].double())])
    single = [n.to(dtype=torch.float32) for n in (network, other)]
    answers = [n(x.float()) for n in single] + [torch.cat([single[0](image[None]) for image in x[:40].float()])]
    assert not torch.equal(answers[0], answers[1])
    bound = torch.cat([e for _, e in Deployed(network, Walk(network, Norm.L2)).around(x, torch.zeros(500).double())])
    true = network(x)
    for answer in answers:
        assert ((answer.double() - true[: len(answer)]).abs() <= bound[: len(answer)]).all()
    assert bound.max() < 1e-3


def test_the_radius_of_nearest_neighbours():
    g = torch.Generator().manual_seed(0)
    points = torch.randint(0, 256, (40, 6), generator=g, dtype=torch.uint8)
    network = neighbours(points, torch.arange(40) % 3, 4)  # of the last class there is no image
    x = images(network, 60, 1)
    labels, radius, single = radii(network, x)
    assert (single > 0).any() and (single < radius)[radius > 0].all()
    assert (1 - single / radius)[radius > 0.01].mean() < 1e-3
    run = network.to(dtype=torch.float32)
    for _ in range(20):
        step = torch.randn(x.shape, generator=g, dtype=torch.float64)
        near = (x + step * (single * 0.999 / step.norm(dim=1))[:, None]).clamp(0, 1)
        assert not (wrong(run(near.float()), labels) & (single > 0)).any()


def test_interval_radii_hold_on_machines_too():
    g = torch.Generator().manual_seed(0)
    weights = [torch.randn(m, n, generator=g, dtype=torch.float64) for m, n in ((6, 2), (3, 6))]
    network = chain((2,), [linear(weights[0], [0.1] * 6), RELU, linear(weights[1], [0.0] * 3)], Norm.LINF)
    x = images(network, 40)
    labels = network(x).argmax(1)
    bound = Interval()(network)
    verdict = bound.judge(x, labels)
    single: Any = verdict.radius_float32
    assert (single <= verdict.radius).all()
    assert (single[verdict.radius > 1e-3] > verdict.radius[verdict.radius > 1e-3] * (1 - 1e-3)).all()
    assert (single > Pairwise()(network).judge(x, labels).radius_float32 * 1.01).any()
    near, of = around(x, single, Norm.LINF)
    for machine in MACHINES:
        assert not (wrong(machine(network, near), labels[of]) & (single[of] > 0)).any()


def test_only_proofs_have_it_and_the_report_names_the_layer():
    network = small(0)
    x = images(network, 4)
    labels = network(x).argmax(1)
    statistical = Statistical(starts=4, iterations=10)(network)
    assert statistical.judge(x, labels).radius_float32 is None and "float32" not in statistical.report
    report = Pairwise()(network).report["float32"]
    assert 0 < report["error"] < 1e-4 and 0 < report["share"] < 1 and report["layer"] in ("linear", "affine")


# ---- what must not pass

HUGE: dict[str, tuple[Layers, str]] = {
    "a tiny layer and a huge one": (
        [linear([[scale, 0], [0, scale]]) for scale in (2.0**-140, 2.0**100, 2.0**40)],
        "linear",
    ),
    "the scale moved by scalings": (
        [("affine", {"scale": [2.0**-100], "shift": None})] * 1
        + [("affine", {"scale": [2.0**-45], "shift": None}), ("affine", {"scale": [2.0**100], "shift": None})]
        + [("affine", {"scale": [2.0**45], "shift": None})],
        "affine",
    ),
    "biases that absorb the difference": (
        [("affine", {"scale": None, "shift": [1e8]}), ("affine", {"scale": None, "shift": [-1e8]})],
        "affine",
    ),
    "constants that are 0 in float32": ([linear([[1e-46, 0], [0, 1e-46]])] + [linear([[1e23, 0], [0, 1e23]])] * 2, ""),
    "a constant beyond float32": ([linear([[1e-39, 0], [0, 1e-39]]), linear([[1e39, 0], [0, 1e39]])], ""),
    "a logit that overflows": ([linear([[1e20, 0], [0, 1e20]])] * 2 + [linear([[1e-20, 0], [0, 1e-20]])] * 2, "linear"),
    "all logits equal": ([linear([[1.0, 1.0], [1.0, 1.0]])], ""),
    "not a number at the edge": (
        [linear([[1e30, 0], [0, 1e30]]), linear([[1e30, -1e30], [0, 1e30]]), linear([[1e-30, 0], [0, 1e-30]])] * 1,
        "linear",
    ),
}


@pytest.mark.parametrize("name", HUGE)
def test_what_float32_gets_wrong_is_not_certified(name):
    """In real arithmetic these are the identity, or nearly so; in float32 some machine fails, and no radius is left."""
    layers, layer = HUGE[name]
    network = chain((2,), layers)
    x = torch.tensor([[1.0, 0.98], [0.3, 0.31], [0.7, 0.705], [0.5, 0.49]]).double()
    labels = network(x).argmax(1)
    bound = Pairwise()(network)
    verdict = bound.judge(x, labels)
    assert (verdict.radius_float32 == 0).all()
    if name == "all logits equal":
        return
    assert (verdict.radius > 1e-4).all()
    report = bound.report["float32"]
    if report.get("refused"):
        assert name == "a constant beyond float32" and "not finite in float32" in report["refused"]
    else:
        assert not layer or report["layer"] == layer
        failed = [wrong(machine(network, x), labels) for machine in MACHINES]
        assert functools.reduce(torch.logical_or, failed).any()


def test_images_that_are_none_have_no_radius():
    network = small(1)
    x = images(network, 3)
    labels = network(x).argmax(1)
    for value in (math.nan, -0.001, 1.001, math.inf):
        x[0, 0] = value
        assert Pairwise()(network).judge(x, labels).radius_float32[0] == 0


def test_flushed_constants_and_images_count():
    """A network whose only weights are subnormal numbers, and one that reads subnormal pixels."""
    for weight, after, x in ((2.0**-130, 2.0**126, 1.0), (2.0**20, 2.0**100, 2.0**-128)):
        network = chain((2,), [linear([[weight, 0], [0, weight]]), linear([[after, 0], [0, after]])])
        image = torch.tensor([[x, x / 2]]).double()
        labels, _, single = radii(network, image)
        assert single == 0
        assert wrong(Machine(flush=True)(network, image), labels).all()


# ---- every term is needed


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
    bound = torch.cat([e for _, e in Deployed(network, Walk(network, Norm.L2)).around(x, torch.zeros(64).double())])
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


def overflowing() -> None:
    test_what_float32_gets_wrong_is_not_certified("a logit that overflows")


def centre_in_doubt() -> None:
    """Values at the centre are only as exact as float64 made them: here as if it had made 0 of all of them."""
    first, last = (operation.weight for operation in two_layers().operations)  # type: ignore[attr-defined]
    network = chain((2,), [linear(first, [0.1, 0.2]), linear(first), linear(last)])
    of = Roundings(network, Walk(network, Norm.L2))
    x = torch.tensor([[1.0, 1.0]]).double()
    values = network.values(x)
    doubt = replace(of.in_float64, entries=[v.abs() for v in values], lengths=[v.norm(dim=1) for v in values])
    of.__dict__["in_float64"] = doubt
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
        lambda m: m.setattr("lipcert.frozen.rounding._Pass.off", lambda self, number: 0 * self.values[number]),
        centre_in_doubt,
    ),
    "values at the centre are exact in norm": (
        lambda m: m.setattr(
            "lipcert.frozen.rounding._Pass.norm_on_the_ball", lambda self, n: lengths(self.values[n], self.norm)
        ),
        centre_in_doubt,
    ),
    "margins at the centre are exact": (
        lambda m: m.setattr(
            "lipcert.certificates.pairwise.proved_radius",
            lambda y, labels, pairs, errors: proved_radius(y, labels, pairs, errors.clamp_max(0.1)),
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
            "lipcert.frozen.rounding._Pass.passed", lambda self, number: torch.zeros_like(self.values[number])
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
        lambda m: m.setattr("lipcert.frozen.rounding.overflows", lambda a, size, own, last: torch.zeros(1).bool()),
        overflowing,
    ),
    "interval heads are those of float64": (
        lambda m: m.setattr("lipcert.certificates.interval.FLOAT32", FLOAT64),
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


def test_bounds_of_all_images_are_those_of_a_ball_around_the_middle():
    for seed in range(3):
        network = small(seed)
        walk = Walk(network, network.norm)
        single, x = Deployed(network, walk), images(network, 5, seed)
        everywhere = rounding(single.network, Walk(single.network, network.norm), FLOAT32)
        bound = torch.cat([errors for _, errors in single.around(x, torch.full((5,), 1e-3).double())])
        assert (bound <= everywhere * (1 + 1e-6)).all() and (bound > 0).all()
