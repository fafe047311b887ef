"""Every kind of operation by itself, with odd parameters: all its rules against exact values."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import frozen_checks as checks
import frozen_exact
import pytest
import torch
from frozen_builder import Builder
from frozen_cases import KINDS, NORMS, one_operation, parameters, pointwise
from mpmath import mpf

from lipcert.contracts import Norm
from lipcert.frozen.arithmetic import FLOAT32, FLOAT64
from lipcert.frozen.lipschitz import Walk
from lipcert.frozen.network import Network
from lipcert.frozen.ops import OPERATIONS
from lipcert.frozen.ops.functions import FUNCTIONS
from lipcert.frozen.rounding import rounding

SEEDS = (0, 3)  # plain constants on the image; constants of any scale behind a scaling
STEP = mpf(2) ** -60  # of numerical derivatives
FIXED = {"distance", "distance_convolution", "nearest_neighbour"}  # kinds whose boxes are not for training
EXACT = {  # kinds whose constant is reached somewhere, at the points tried
    "linear", "along_axis", "subtract_mean", "sort", "reshape", "permute", "slice", "rearrange", "split", "two_sided",
}  # fmt: skip


def test_every_kind_has_cases():
    assert set(KINDS) == set(OPERATIONS)
    assert set(frozen_exact.FUNCTIONS) == set(FUNCTIONS)


def every_rule(network: Network, seed: int, wild: bool) -> tuple[Counter[str], dict[Norm, float]]:
    """How many checks of which rule were made, and the largest gain over its constant in each norm."""
    done, tightness = Counter[str](), {}
    for norm in NORMS:
        of_norm = replace(network, norm=norm)
        count, tightness[norm] = checks.lipschitz(of_norm, seed)
        done["lipschitz"] += count
        if norm is NORMS[seed % 3]:
            done["rounding"] += checks.roundings(of_norm, seed, done)
    done["boxes"] += checks.boxes(network, seed)
    if not wild and not FIXED & {operation.kind for operation in network.operations}:
        done["boxes"] += checks.differentiable(network)
    done["steps"] += checks.steps(network, seed)
    return done, tightness


def of_kind(kind: str, seeds: Iterable[int]) -> Counter[str]:
    """All checks of networks of one kind; constants of any scale in every second one."""
    total = Counter[str]()
    for seed in seeds:
        network = one_operation(kind, seed, wild=bool(seed % 2))
        done, tightness = every_rule(network, seed, bool(seed % 2))
        total += done
        if kind in EXACT and seed % 4 == 0:
            assert all(t > 1 - 1e-9 or t == 0 for t in tightness.values() if t == t), (kind, tightness)
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_rules_are_bounds(kind):
    done = of_kind(kind, SEEDS)
    assert min(done[rule] for rule in ("lipschitz", "rounding", "boxes", "steps", "finite")) > 0
    assert sum(done.values()) > 500  # 27 kinds: above 13,500 in all


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_rules_are_bounds_for_thirty_times_as_many(kind):
    done = of_kind(kind, range(66))
    assert sum(done.values()) > 20_000 and done["finite"] >= done["infinite"]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("seeds", [range(2), pytest.param(range(2, 8), marks=pytest.mark.slow)], ids=["few", "more"])
def test_functions(function, seeds):
    for seed in seeds:
        builder = Builder(seed, (5,), wild=bool(seed % 2))
        try:
            network = builder.network(pointwise(builder, 0, function))
        except ValueError:
            continue
        every_rule(network, seed, bool(seed % 2))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_slopes_are_the_largest_derivatives(function):
    """Found on a grid, and by narrowing around its best; at the turning points the derivative changes its sign."""
    builder = Builder(0)
    for given in {parameters(builder, function) for _ in range(4)}:
        slope, turns = FUNCTIONS[function].slope(*given), FUNCTIONS[function].turns(*given)

        def derivative(x, given=given):
            above, below = (frozen_exact.FUNCTIONS[function](x + s, *map(mpf, given)) for s in (STEP, -STEP))
            return (above - below) / (2 * STEP)

        grid = [mpf(k) / 4 + mpf(1) / 37 for k in range(-400, 400)]
        steep = [derivative(x) for x in grid]
        at = max(range(len(grid)), key=lambda k: abs(steep[k]))
        low, high = grid[at] - mpf(1) / 4, grid[at] + mpf(1) / 4
        for _ in range(60):
            one, other = low + (high - low) / 3, high - (high - low) / 3
            low, high = (one, high) if abs(derivative(one)) < abs(derivative(other)) else (low, other)
        truth = max(abs(steep[at]), abs(derivative((low + high) / 2)))
        assert truth <= slope <= truth * (1 + mpf("1e-3"))
        if FUNCTIONS[function].periodic:
            continue
        changes = [k for k in range(len(grid) - 1) if steep[k] * steep[k + 1] < 0 and abs(steep[k]) > mpf(10) ** -60]
        changes = [k for k in changes if abs(steep[k + 1]) > mpf(10) ** -60]
        assert all(any(grid[k] <= turn <= grid[k + 1] for turn in turns) for k in changes), "a turning point is missing"
        for turn in turns:
            assert derivative(mpf(turn) - mpf(10) ** -9) * derivative(mpf(turn) + mpf(10) ** -9) <= 0


def tiny_chain(exponents: list[int], dtype: torch.dtype) -> Network:
    """Layers that scale by powers of two in turn: what is small in between is flushed, and made large again."""
    builder, value = Builder(0, (3,)), 0
    for e in exponents:
        matrix = torch.eye(3, dtype=torch.float64) + 0.25
        weight = matrix.to(dtype).double() * 2.0**e
        value = builder.add("linear", value, weight=weight, bias=None)
    return builder.network(value)


CHAINS = [[-149, 100, 49], [-126, -20, 127, 19], [-75, -75, 75, 75], [-140, 140 - 127, 127], [-100, -49, 120, 29]]


@pytest.mark.parametrize("exponents", CHAINS)
@pytest.mark.parametrize("flushed", [False, True])
def test_underflow_counts(exponents, flushed):
    double = [7 * e if e < 0 else min(7 * e, 1000) for e in exponents]
    was = torch.tensor([1e-310], dtype=torch.float64).add(0).item() == 0
    for chain, dtype, arithmetic in ((exponents, torch.float32, FLOAT32), (double, torch.float64, FLOAT64)):
        network = tiny_chain(chain, dtype)
        bound = rounding(network, Walk(network, Norm.L2), arithmetic)
        assert bool((bound > 0).all())
        images = torch.rand(6, 3).to(dtype)
        single = network.to(dtype=dtype)
        try:
            torch.set_flush_denormal(flushed)
            computed = [single(image[None])[0] for image in images]
        finally:
            torch.set_flush_denormal(was)
        for image, logits in zip(images, computed, strict=True):
            checks.below(checks.error(logits, frozen_exact.logits(network, image)), bound, chain)


def test_denormal_numbers_that_are_flushed_count():
    """Each kind again, with every constant and input that may be flushed to zero flushed."""
    checked = 0
    for seed, kind in enumerate(sorted(set(KINDS) - {"nearest_neighbour"}) * 2):
        network = one_operation(kind, 1000 + seed, wild=True)
        try:
            bound = rounding(network, Walk(network, Norm.L2))
        except ValueError:
            continue
        image = torch.rand(1, *network.shape, dtype=torch.float64) * random.Random(seed).choice((1.0, 1e-308, 1e-310))
        exact = frozen_exact.logits(network, image[0])
        try:
            torch.set_flush_denormal(True)
            computed = network(image)[0]
        finally:
            torch.set_flush_denormal(False)
        checked += checks.below(checks.error(computed, exact), bound, network.operations)
    assert checked > 200


def test_an_overflow_inside_a_function_has_no_bound():
    """softplus multiplies by beta before it divides by it: its value is far smaller than what it computes with."""
    for arithmetic, dtype, size, beta in ((FLOAT64, torch.float64, 900, 124), (FLOAT32, torch.float32, 99, 29)):
        builder = Builder(0, (2,))
        first = builder.add("affine", 0, scale=torch.tensor([2.0**size], dtype=torch.float64), shift=None)
        network = builder.network(builder.add("pointwise", first, function="softplus", parameters=(1.2 * 2.0**beta,)))
        assert not bool(network.to(dtype=dtype)(torch.ones(1, 2, dtype=dtype)).isfinite().any())
        assert bool((rounding(network, Walk(network, Norm.L2), arithmetic) == float("inf")).all())


def test_overflow_has_no_bound():
    for weight, arithmetic in ((1e39, FLOAT32), (1e20, FLOAT32), (1e300, FLOAT64)):
        builder = Builder(0, (2,))
        first = builder.add("affine", 0, scale=torch.tensor([weight], dtype=torch.float64), shift=None)
        second = builder.add("affine", first, scale=torch.tensor([weight], dtype=torch.float64), shift=None)
        third = builder.add("pointwise", second, function="tanh", parameters=())
        try:
            network = builder.network(third)
            assert bool((rounding(network, Walk(network, Norm.L2), arithmetic) == float("inf")).all())
        except ValueError as error:  # a slope beyond float64
            assert "no finite" in str(error)
