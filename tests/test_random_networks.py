"""Networks of random operations, forked, mixed, nested and permuted: what is claimed of them holds."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace

import frozen_checks as checks
import frozen_exact
import pytest
import torch
from frozen_builder import Builder
from frozen_cases import KINDS, NORMS, grown
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lipcert.contracts import Norm
from lipcert.frozen.arithmetic import FLOAT32, FLOAT64
from lipcert.frozen.lipschitz import Walk
from lipcert.frozen.network import Network
from lipcert.frozen.pairs import pair_bounds
from lipcert.frozen.rounding import rounding

FORKS = (
    "split",
    "merge",
    "concatenate",
    "rearrange",
    "permute",
    "slice",
    "min_max",
    "two_sided",
    "add",
    "maximum",
    "sort",
)
LINEAR = ("linear", "linear", "convolution", "affine", "affine", "leaky_relu", "max_pool", "norm_pool", "subtract_mean")
OTHERS = tuple(sorted(set(KINDS) - set(FORKS) - set(LINEAR) - {"nearest_neighbour"}))


def recipe(seed: int) -> list[tuple[str, int]]:
    """From 3 to 12 operations: mostly what forks and mixes, and linear layers on it."""
    r = random.Random(seed)
    families = r.choices((FORKS, LINEAR, OTHERS), (5, 4, 2), k=r.randint(3, 12))
    return [(r.choice(family), r.randrange(100)) for family in families]


def claims(network: Network, seed: int) -> int:
    """The checks of constants, pairs and boxes of one network."""
    count = 0
    for norm in NORMS:
        count += checks.lipschitz(replace(network, norm=norm), seed, parts=2, values=3)[0]
    return count + checks.boxes(network, seed)


STEPS = st.lists(st.tuples(st.sampled_from(sorted(KINDS)), st.integers(0, 99)), min_size=1, max_size=8)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(steps=STEPS, seed=st.integers(0, 999))
def test_claims_hold_for_any_list(steps, seed):
    claims(grown(steps, seed), seed)


def test_claims_hold_for_lists_that_fork_and_mix():
    assert sum(claims(grown(recipe(seed), seed), seed) for seed in range(20)) > 6_000


def test_claims_hold_for_constants_of_any_scale():
    for seed in range(1000, 1012):
        network = grown(recipe(seed), seed, wild=True)
        for norm in NORMS:
            checks.lipschitz(replace(network, norm=norm), seed, parts=1, values=1)


def test_roundings_hold():
    outcomes = Counter[str]()
    count = sum(checks.roundings(grown(recipe(s), s, wild=s % 2 == 1), s, outcomes) for s in range(2000, 2016))
    count += sum(checks.steps(grown(recipe(s), s, wild=s % 2 == 1), s) for s in range(2000, 2005))
    assert count > 400 and outcomes["finite"] > 16


@pytest.mark.slow
def test_everything_holds_for_thirty_times_as_many():
    for seed in range(10_000, 10_600):
        network = grown(recipe(seed), seed, wild=seed % 4 == 3)
        claims(network, seed)
        checks.roundings(replace(network, norm=NORMS[seed % 3]), seed)
        checks.steps(network, seed)
        attacked(replace(network, norm=NORMS[seed % 3]), seed)


# ---- radii


def project(delta: Tensor, radius: Tensor, norm: Norm) -> Tensor:
    """Onto the ball, or for l1 scaled into it."""
    if norm is Norm.LINF:
        return torch.minimum(torch.maximum(delta, -radius), radius)
    length = checks.lengths(delta, checks.ORDERS[norm])[:, None]
    return delta * (radius / length.clamp_min(1e-300)).clamp_max(1.0)


def attacked(network: Network, seed: int) -> int:
    """No label changes within 0.999 of the radius: gradient steps towards each other class, from a few images."""
    if network.classes < 2:
        return 0
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(4, *network.shape, generator=generator, dtype=torch.float64)
    try:
        walk = Walk(network, network.norm)
        bound, errors = pair_bounds(walk).smallest(), rounding(network, walk)
    except ValueError:
        return 0
    logits = network(x)
    label = logits.argmax(1)
    gap = logits.gather(1, label[:, None]) - logits - errors[label][:, None] - errors
    radii = (gap / bound[label]).scatter(1, label[:, None], math.inf)
    radius = radii.amin(1).clamp(0, 1e6)[:, None]
    certified = radius[:, 0] > 0
    for _ in range(3):
        step = torch.randn(len(x), x[0].numel(), generator=generator, dtype=torch.float64)
        delta = project(step * radius, 0.999 * radius, network.norm)
        for at in range(12):
            point = (x + delta.view_as(x)).requires_grad_()
            y = network(point)
            rival = y.detach().scatter(1, label[:, None], -math.inf).argmax(1)
            assert not bool((certified & (y.argmax(1) != label)).any()), f"a label changed in {network.operations}"
            worth = (y.gather(1, rival[:, None]) - y.gather(1, label[:, None])).sum()
            if not worth.requires_grad:
                return 0
            g = torch.autograd.grad(worth, point, materialize_grads=True)[0].flatten(1).nan_to_num(0, 0, 0)
            size = checks.lengths(g, 2.0)[:, None].clamp_min(1e-300)
            g = g.sign() if network.norm is Norm.LINF else g / size
            if network.norm is Norm.L1:
                g = torch.zeros_like(g).scatter(1, g.abs().argmax(1, keepdim=True), 1.0) * g.sign()
            delta = project(delta + g * radius * (2.0 if at < 3 else 0.3), 0.999 * radius, network.norm)
    return int(certified.sum())


def test_no_label_changes_within_a_radius():
    certified = sum(attacked(replace(grown(recipe(s), s), norm=NORMS[s % 3]), s) for s in range(3000, 3024))
    assert certified > 24


# ---- constructions of the audit, by hand


def twice(b: Builder) -> int:
    """One ReLU read by two layers, whose results are added: what one value moves counts in both."""
    first = b.add("linear", 0, weight=torch.eye(4, dtype=torch.float64), bias=None)
    relu = b.add("pointwise", first, function="relu", parameters=())
    return b.add("add", relu, relu, minus=False)


def two_scalings(b: Builder) -> int:
    """One linear layer with two scalings behind it: each is measured with its own."""
    first = b.add("linear", 0, weight=torch.eye(4, dtype=torch.float64), bias=None)
    small = b.add("affine", first, scale=torch.tensor([1.0], dtype=torch.float64), shift=None)
    large = b.add("affine", first, scale=torch.tensor([100.0], dtype=torch.float64), shift=None)
    return b.add("concatenate", small, large, axis=0)


def vanishing_scaling(b: Builder) -> int:
    """A product of two constants that is 0 in float64, and is not."""
    value = b.add("linear", 0, weight=torch.eye(4, dtype=torch.float64) * 1e-200, bias=None)
    value = b.add("affine", value, scale=torch.full((4,), 1e-200, dtype=torch.float64), shift=None)
    for _ in range(2):
        value = b.add("affine", value, scale=torch.full((1,), 1e200, dtype=torch.float64), shift=None)
    return value


def vanishing_rows(b: Builder) -> int:
    """The same in two linear layers, which functionals are pulled back through."""
    value = 0
    for scale in (1e150, 1e150, 1e-170, 1e-170):
        value = b.add("linear", value, weight=torch.eye(4, dtype=torch.float64) * scale, bias=None)
    return value


def copied(b: Builder) -> int:
    """Broadcasting: four copies of one entry, a mixing layer behind them."""
    value = b.add("rearrange", 0, index=torch.zeros(4, dtype=torch.int64))
    return b.add("linear", value, weight=torch.ones(2, 4, dtype=torch.float64), bias=None)


def branches(b: Builder, mix) -> int:
    """Two copies as branches, mixed somehow, and a sum of ones in each branch."""
    value = b.add("rearrange", 0, index=torch.arange(4).repeat(2, 1))
    value = mix(b, value)
    shape = b.shapes[value]
    value = b.add("reshape", value, shape=(2, math.prod(shape) // 2))
    return b.add("linear", value, weight=torch.ones(2, 1, b.shapes[value][1], dtype=torch.float64), bias=None)


def swapped(b: Builder, value: int) -> int:
    return b.add("rearrange", value, index=torch.arange(8).view(2, 4).flip(0))


def shuffled(b: Builder, value: int) -> int:
    return b.add("reshape", b.add("permute", value, axes=(1, 0)), shape=(2, 4))


def two_sided_across(b: Builder, value: int) -> int:
    return b.add("two_sided", value, function="relu", t=None, axis=0)


def own_plus_other(b: Builder, value: int) -> int:
    return b.add("add", value, swapped(b, value), minus=False)


def split_bypassed(b: Builder) -> int:
    """A merge whose first branch sees the image past the split too."""
    half = torch.tensor([2**-0.5], dtype=torch.float64)
    value = b.add("split", 0, first=half, second=half)
    first, second = (b.add("slice", value, axis=0, start=k, stop=k + 1, step=1) for k in (0, 1))
    first, second = (b.add("reshape", v, shape=(4,)) for v in (first, second))
    first = b.add("add", first, 0, minus=False)
    return b.add("merge", first, second, first=half, second=half)


def split_shared(b: Builder) -> int:
    """A merge of two layers that see the same half of the split."""
    one = torch.tensor([1.0], dtype=torch.float64)
    value = b.add("split", 0, first=one, second=one)
    value = b.add("reshape", b.add("slice", value, axis=0, start=0, stop=1, step=1), shape=(4,))
    pair = [b.add("linear", value, weight=torch.eye(4, dtype=torch.float64), bias=None) for _ in range(2)]
    return b.add("merge", *pair, first=one, second=one)


def three_of_a_split(b: Builder) -> int:
    """A concatenation of three values, behind a split, of which parts ask for two."""
    one = torch.tensor([1.0], dtype=torch.float64)
    value = b.add("split", 0, first=one, second=one)
    flat = b.add("reshape", value, shape=(8,))
    parts = [b.add("slice", flat, axis=0, start=k, stop=k + 2, step=1) for k in (0, 4, 6)]
    parts = [b.add("pointwise", v, function="tanh", parameters=()) for v in parts]
    return b.add("slice", b.add("concatenate", *parts, axis=0), axis=0, start=0, stop=4, step=1)


NASTY = {
    "twice": twice,
    "two scalings of one layer": two_scalings,
    "a scaling that underflows": vanishing_scaling,
    "rows that underflow": vanishing_rows,
    "broadcast copies": copied,
    "branches swapped": lambda b: branches(b, swapped),
    "branches shuffled": lambda b: branches(b, shuffled),
    "two-sided across branches": lambda b: branches(b, two_sided_across),
    "a branch and the other": lambda b: branches(b, own_plus_other),
    "a split bypassed": split_bypassed,
    "one half of a split twice": split_shared,
    "three parts behind a split": three_of_a_split,
}


@pytest.mark.parametrize("name", NASTY)
def test_nasty_constructions(name):
    builder = Builder(0, (4,))
    network = builder.network(NASTY[name](builder))
    for seed in range(2):
        claims(network, seed)
    checks.roundings(network, 0)
    assert attacked(network, 0) >= 0


def test_underflow_moved_through_a_chain():
    """17 layers scaled by 2^e, first to nothing and then back: what float32 flushes is not certified."""
    generator = torch.Generator().manual_seed(0)
    for at in range(0, 16, 5):
        builder, value = Builder(0, (4,)), 0
        exponents = [2] * 17
        exponents[at], exponents[at + 1] = -149, 117
        for e in exponents:
            matrix = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64)).Q
            weight = ((matrix * 8).round() / 8 * 2.0**e).float().double()
            value = builder.add("linear", value, weight=weight, bias=None)
        network = builder.network(value)
        single = network.to(dtype=torch.float32)
        image = torch.rand(1, 4, generator=generator)
        exact = frozen_exact.logits(network, image[0])
        for run, x, arithmetic in ((single, image, FLOAT32), (network, image.double(), FLOAT64)):
            bound = rounding(network, Walk(network, Norm.L2), arithmetic)
            checks.below(checks.error(run(x)[0], exact), bound, exponents)
