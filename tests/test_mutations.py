"""The checks of frozen networks notice a wrong rule: each mistake below is made, and must be found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import frozen_checks as checks
import pytest
import torch
from frozen_builder import Builder
from frozen_cases import NORMS, one_operation
from test_operations import tiny_chain
from test_random_networks import NASTY
from torch import Tensor

from lipcert.contracts import Norm
from lipcert.frozen import lipschitz
from lipcert.frozen.arithmetic import EXACT, FLOAT32, Arithmetic
from lipcert.frozen.lipschitz import Walk
from lipcert.frozen.network import Network
from lipcert.frozen.ops.affine import LinearMap
from lipcert.frozen.ops.joins import Add, Concatenate, Merge
from lipcert.frozen.ops.pointwise import LeakyReLU, Pointwise, TwoSided
from lipcert.frozen.ops.pooling import MaxPool, NormPool, Sort, SubtractMean
from lipcert.norms import Operator

Networks = Iterable[Network]


def of_kind(kind: str, count: int = 12) -> Networks:
    return (one_operation(kind, 2 * seed, wild=False) for seed in range(count))


def nasty(name: str) -> Networks:
    builder = Builder(0, (4,))
    yield builder.network(NASTY[name](builder))


def chains() -> Networks:
    yield tiny_chain([-149, 100, 49], torch.float32)


def constants(network: Network, seed: int) -> None:
    for norm in NORMS:
        checks.lipschitz(replace(network, norm=norm), seed)


def rows_alone(monkeypatch, change: Callable[[Any, Any], Any]) -> None:
    right = LinearMap.pull_back
    monkeypatch.setattr(LinearMap, "pull_back", lambda *args: change(*right(*args)))


def without_disjointness(self: Walk, parts: dict) -> list:
    """`Walk.behind_a_split`, which does not look whether the halves are separate."""
    splits = [k for k, o in enumerate(self.network.operations[: min(parts)], 1) if o.kind == "split"]
    for split in splits:
        relative = [self.relative(split) for _ in parts]
        gains = [walk.constant(v, part) for walk, (v, part) in zip(relative, parts.items(), strict=True)]
        return [self.product(self.most(gains), self.constant(split, relative[0].needed | relative[1].needed))]
    return []


def blind(self: Walk, value: int, part: Any) -> Any:
    """`Walk.at_root`, which takes what goes past the split for nothing."""
    return 0.0 if value < self.root else AT_ROOT(self, value, part)


def one_key(self: Walk, value: int, group: Any, rows: Any, operator: Any, fused: int = 0) -> Any:
    return MEASURED(self, value, group, rows, operator, int(fused > 0))


def by(bound: Callable[[Operator], float]) -> Callable[[Any], None]:
    """The norm of an operator is taken to be `bound` of it."""
    return lambda m: m.setattr(Walk, "computed", lambda self, key, operator: bound(operator()))


def power_norm(operator: Operator) -> Tensor:
    """The lengths that three steps of power iteration find, which are at most the norms."""
    u = torch.ones(operator.domain, dtype=torch.float64)
    for _ in range(3):
        length, u = operator.power_step(u / u.norm())
    return length.max()


def counted(windows: Any, sides: tuple[int, ...]) -> float:
    """Windows that share an entry, k/s along each axis instead of the next whole number."""
    return math.prod(k / s for k, s in zip(windows.kernel, windows.stride, strict=True))


def as_squares(o: Merge, walk: Walk, number: int, part: Any) -> Any:
    """The gain of s·f(x) + t·r(x) is taken to be √(s²·L_f² + t²·L_r²), as if f and r read different images."""
    steep = (walk.steepest(c, o.shape, None) for c in (o.first, o.second))
    return math.hypot(*(walk.product(s, walk.constant(i)) for s, i in zip(steep, o.inputs, strict=True)))


def residual() -> Networks:
    """√½·x + √½·x, which is √2·x."""
    builder, share = Builder(0, (4,)), torch.tensor(0.5, dtype=torch.float64).sqrt()
    yield builder.network(builder.add("merge", 0, 0, first=share, second=share))


def length_of_both() -> Networks:
    """√(x² + f(x)²) with f(x) = x."""
    builder = Builder(0, (1, 1, 4))
    both = builder.add("concatenate", 0, 0, axis=1)
    yield builder.network(builder.add("norm_pool", both, kernel=(2, 1), stride=(2, 1), divisor=1, delta=1e-12))


def nearly_orthogonal() -> Networks:
    """A rotation in float32, which claims to expand nothing."""
    turned = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))[0]
    builder = Builder(0, (8,))
    builder.add("linear", 0, weight=turned.double() * (1 + 4e-7), bias=None, claim=(1.0,))
    yield builder.network()


def claimed(self: Walk, value: int, group: Any, rows: Any, operator: Any, fused: int = 0) -> Any:
    """`Walk.measured`, which believes what a layer's construction promises."""
    claim = self.network.operations[value - 1].claim
    return max(claim) if claim else MEASURED(self, value, group, rows, operator, fused)


AT_ROOT, MEASURED, LINEAR_BOX = Walk.at_root, Walk.measured, LinearMap.box
MUTANTS: dict[str, tuple[Callable[[Any], None], Callable[..., Any], Networks]] = {
    "copies count once": (
        lambda m: m.setattr(Walk, "copied", lambda self, times: float(times > 0)),
        constants,
        of_kind("rearrange"),
    ),
    "the negative half of two-sided units is forgotten": (
        lambda m: m.setattr(
            TwoSided,
            "lipschitz",
            lambda o, walk, n, part: walk.constant(o.inputs[0], None if part is None else part.chunk(2, o.axis)[0]),
        ),
        constants,
        of_kind("two_sided"),
    ),
    "a concatenation moves as its largest part": (
        lambda m: m.setattr(
            Concatenate, "lipschitz", lambda o, walk, n, part: walk.most([walk.constant(i) for i in o.inputs])
        ),
        constants,
        of_kind("concatenate"),
    ),
    "a sum moves as its larger term": (
        lambda m: m.setattr(Add, "lipschitz", lambda o, walk, n, part: walk.most([walk.constant(i) for i in o.inputs])),
        constants,
        of_kind("add"),
    ),
    "a merge moves as its larger branch": (
        lambda m: m.setattr(
            Merge,
            "lipschitz",
            lambda o, walk, n, part: walk.most(
                [walk.product(walk.steepest(c, o.shape, None), walk.constant(o.inputs[0])) for c in (o.first, o.second)]
            ),
        ),
        constants,
        of_kind("merge"),
    ),
    "a split moves as its larger half": (
        lambda m: m.setattr(Walk, "lengths", lambda self, factors: factors.amax(0)),
        constants,
        of_kind("split"),
    ),
    "windows of max pooling do not overlap": (
        lambda m: m.setattr(MaxPool, "overlap", lambda *args: 1),
        constants,
        of_kind("max_pool"),
    ),
    "windows of norm pooling do not overlap": (
        lambda m: m.setattr(NormPool, "overlap", lambda *args: 1),
        constants,
        of_kind("norm_pool"),
    ),
    "subtracting a mean expands nothing in any norm": (
        lambda m: m.setattr(SubtractMean, "lipschitz", lambda o, walk, n, part: walk.constant(o.inputs[0])),
        constants,
        of_kind("subtract_mean"),
    ),
    "a sorted entry is that entry": (
        lambda m: m.setattr(Sort, "lipschitz", lambda o, walk, n, part: walk.constant(o.inputs[0], part)),
        constants,
        of_kind("sort"),
    ),
    "a leaky slope below 1 is the steepest": (
        lambda m: m.setattr(LeakyReLU, "steepest", lambda o: o.slope.abs()),
        constants,
        of_kind("leaky_relu"),
    ),
    "no function is steeper than 1": (
        lambda m: m.setattr(Pointwise, "slope", lambda o: 1.0),
        constants,
        of_kind("pointwise", 40),
    ),
    "functionals are pulled back 1 % short": (
        lambda m: rows_alone(m, lambda weights, errors: (0.99 * weights, errors)),
        constants,
        of_kind("linear"),
    ),
    "pulled-back weights that underflow are 0": (
        lambda m: rows_alone(m, lambda weights, errors: (weights, errors.where(errors > 1e-290, 0.0))),
        constants,
        nasty("rows that underflow"),
    ),
    "constants that underflow are 0": (
        lambda m: m.setattr(lipschitz, "LEAST", 0.0),
        constants,
        nasty("a scaling that underflows"),
    ),
    "two scalings of a layer share one norm": (
        lambda m: m.setattr(Walk, "measured", one_key),
        constants,
        nasty("two scalings of one layer"),
    ),
    "both branches may see one half of a split": (
        lambda m: m.setattr(Walk, "behind_a_split", without_disjointness),
        constants,
        nasty("one half of a split twice"),
    ),
    "a branch may see past its split": (
        lambda m: m.setattr(Walk, "at_root", blind),
        constants,
        nasty("a split bypassed"),
    ),
    "the squares of residual branches add up": (
        lambda m: m.setattr(Merge, "lipschitz", as_squares),
        constants,
        residual(),
    ),
    "the length of two branches expands nothing": (
        lambda m: m.setattr(
            Concatenate, "lipschitz", lambda o, walk, n, part: walk.most([walk.constant(i) for i in o.inputs])
        ),
        constants,
        length_of_both(),
    ),
    "k/s windows share an entry": (
        lambda m: m.setattr(NormPool, "overlap", counted),
        constants,
        of_kind("norm_pool", 40),
    ),
    "a layer expands as its construction promises": (
        lambda m: m.setattr(Walk, "measured", claimed),
        constants,
        nearly_orthogonal(),
    ),
    "a kernel as a matrix has the norm of its convolution": (
        by(lambda operator: float(torch.linalg.matrix_norm(operator.weight.flatten(1), 2))),
        constants,
        of_kind("convolution"),
    ),
    "groups side by side expand as the product of their norms": (
        by(lambda operator: float(operator.norms(Norm.L2).prod())),
        constants,
        of_kind("convolution"),
    ),
    "a few steps of power iteration bound a norm": (
        by(lambda operator: float(power_norm(operator))),
        constants,
        of_kind("convolution"),
    ),
    "nothing underflows": (
        lambda m: m.setattr(checks, "FLOAT32", replace(FLOAT32, tiny=0.0)),
        checks.roundings,
        chains(),
    ),
    "nothing rounds": (
        lambda m: m.setattr(Arithmetic, "gamma", lambda self, roundings: 0.0),
        checks.roundings,
        of_kind("linear"),
    ),
    "boxes are not rounded outward": (
        lambda m: m.setattr(LinearMap, "box", lambda self, arithmetic, *boxes: LINEAR_BOX(self, EXACT, *boxes)),
        checks.boxes,
        of_kind("linear", 20),
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_rule_is_noticed(name, monkeypatch):
    change, check, networks = MUTANTS[name]
    networks = list(networks)
    change(monkeypatch)
    with pytest.raises(AssertionError):
        for seed, network in enumerate(networks):
            check(network, seed)


def test_the_same_checks_pass_otherwise():
    for seed, network in enumerate((*of_kind("merge", 3), *of_kind("affine", 3), *nasty("twice"), *chains())):
        constants(network, seed)
        checks.roundings(network, seed)
        checks.boxes(network, seed)
