"""The radius of a network as it is deployed in float32: on no machine does an image within it get another label.

The cases that must not pass are at the end; that every term of the error bound is needed is in test_float32_terms.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from float32_cases import RELU, Layers, around, bounded, chain, images, keeps, linear, neighbours, radii, small, wrong
from float32_machine import MACHINES, Machine

from lipcert.certificates.interval import Interval
from lipcert.certificates.pairwise import Pairwise
from lipcert.certificates.statistical import Statistical
from lipcert.contracts import CertificateRow, Kind, Norm
from lipcert.export.verify_boxes import least_margins
from lipcert.frozen.arithmetic import FLOAT32
from lipcert.frozen.boxes import worst_margins
from lipcert.frozen.deployed import Deployed
from lipcert.frozen.lipschitz import Walk
from lipcert.frozen.rounding import rounding
from lipcert.runs.directory import RunDirectory
from lipcert.runs.results import Results
from lipcert.runs.rows import format_rows, header, parse_rows


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
    bound = torch.cat(
        [e.logits for _, e in Deployed(network, Walk(network, Norm.L2)).around(x, torch.zeros(500).double())]
    )
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


def test_other_boxes_prove_interval_radii_too():
    """Those of `lipcert verify`, and boxes that are 2 % looser, however closely the largest radius was looked for."""
    for seed in range(20):
        g = torch.Generator().manual_seed(seed)
        weights = [torch.randn(m, n, generator=g, dtype=torch.float64) for m, n in ((9, 4), (9, 9), (3, 9))]
        layers = [linear(w, torch.rand(len(w), generator=g).tolist()) for w in weights]
        network = chain((4,), [layers[0], RELU, layers[1], RELU, layers[2]], Norm.LINF)
        x = images(network, 20, seed)
        labels = network(x).argmax(1)
        single: Any = Interval(tolerance=1e-12)(network).judge(x, labels).radius_float32
        found = single > Pairwise()(network).judge(x, labels).radius_float32
        reach = single[found, None]
        low, high = (x[found] - reach).clamp(0, 1), (x[found] + reach).clamp(0, 1)
        rounded = network.to(dtype=torch.float32).to(dtype=torch.float64)
        looser = worst_margins(rounded, low, high, labels[found], replace(FLOAT32, unit=1.02 * FLOAT32.unit))
        assert found.any() and (looser >= 0).all()
        assert (least_margins(rounded, low, high, labels[found], FLOAT32) >= 0).all()


def test_only_proofs_have_it_and_the_report_names_the_layer():
    network = small(0)
    x = images(network, 4)
    labels = network(x).argmax(1)
    statistical = Statistical(starts=4, iterations=10)(network)
    assert statistical.judge(x, labels).radius_float32 is None and "float32" not in statistical.report
    report = Pairwise()(network).report["float32"]
    assert 0 < report["error"] < 1e-4 and 0 < report["share"] < 1 and report["layer"] in ("linear", "affine")


def test_bounds_of_all_images_are_those_of_a_ball_around_the_middle():
    for seed in range(3):
        network = small(seed)
        walk = Walk(network, network.norm)
        single, x = Deployed(network, walk), images(network, 5, seed)
        everywhere = rounding(single.network, Walk(single.network, network.norm), FLOAT32)
        bound = torch.cat([errors.logits for _, errors in single.around(x, torch.full((5,), 1e-3).double())])
        assert (bound <= everywhere * (1 + 1e-6)).all() and (bound > 0).all()


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
    "a sum that depends on its order": (
        [
            linear([[1.0, 0], [1, 0], [1, 0], [0, 1]]),
            linear([[2.0**26, 1, -(2.0**26), 0], [0, 0, 0, 1]]),
        ],
        "linear",
    ),
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
        assert name != "a logit that overflows" or report["error"] is None
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


# ---- rows


def row(index: int, radius: float, single: float | None, certificate: str = "pairwise") -> CertificateRow:
    return CertificateRow("test", index, "l2", certificate, "proof", 1, 1, 1.0, radius, None, single)


def test_rows_of_older_versions_are_read_and_added_to(tmp_path):
    """They lack the last columns."""
    old = "".join(
        line.rsplit(",", 2)[0] + "\n" for line in format_rows(CertificateRow, [row(0, 0.5, 0.4)]).splitlines()
    )
    first = header(CertificateRow).rsplit(",", 2)[0] + "\n"
    assert parse_rows((first + old).encode(), CertificateRow, "rows") == [row(0, 0.5, None)]
    with pytest.raises(ValueError, match="line 1: header"):
        parse_rows((first.rpartition(",radius")[0] + "\n").encode(), CertificateRow, "rows")
    directory = RunDirectory(tmp_path)
    directory.create_manifest({})
    directory.replace("rows.csv", first + old)
    directory.append_rows("rows.csv", [row(1, 0.3, 0.2)])
    assert directory.read_rows("rows.csv", CertificateRow) == [row(0, 0.5, None), row(1, 0.3, 0.2)]


def test_of_several_proofs_the_largest_radius_of_float32_counts():
    facts = {"kind": "proof", "norm": "l2", "seconds": {"bound": 0.0, "certify": 0.0}}
    certificates = {"a": [row(0, 0.5, 0.1, "a")], "b": [row(0, 0.4, 0.2, "b")]}
    results = Results(certificates, {"a": facts, "b": facts}, [], [], [])
    (best,) = results.best(Kind.PROOF)
    assert (best.radius, best.radius_float32) == (0.5, 0.2)
