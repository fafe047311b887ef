"""The attacks that an audit is made of."""

from __future__ import annotations

import math
from typing import NamedTuple

from lipcert.attacks.auto_projected_gradient import AutoProjectedGradient
from lipcert.attacks.carlini_wagner import CarliniWagnerL2
from lipcert.attacks.deep_fool import DeepFoolL2
from lipcert.attacks.fast_minimum_norm import FastMinimumNorm
from lipcert.attacks.softened import Softened
from lipcert.attacks.square import Square
from lipcert.contracts import Attack, Norm
from lipcert.frozen import Network


class Trial(NamedTuple):
    """An attack, on the network in float32 (`single`) or in float64; `starts`: from the nearest image that is known."""

    attack: Attack
    single: bool
    starts: bool = False

    @property
    def name(self) -> str:
        start = " from the nearest image known" if self.starts else ""
        return f"{self.attack.label}{start} in {'float32' if self.single else 'float64'}"


class Suite(NamedTuple):
    """The attacks by what they are for.

    smallest  look for the smallest distance, and take no radius
    strong    are given a radius at which the label may have changed
    nearer    look for a smaller distance than the one that is known
    whole     are given a radius at which the label must not change
    """

    smallest: list[Trial]
    strong: list[Trial]
    nearer: list[Trial]
    whole: list[Trial]

    def in_float64(self) -> Suite:
        """The same attacks, all in float64, each once: for a network that float32 can't hold."""

        def moved(trials: list[Trial]) -> list[Trial]:
            every = {trial.name: trial for trial in (trial._replace(single=False) for trial in trials)}
            return list(every.values())

        return Suite(*map(moved, self))


def suite(network: Network, norm: Norm, steps: int, restarts: int) -> Suite:
    """The suite for a network and a norm.

    steps     of each attack by gradients
    restarts  of those that are given a radius
    """

    def ascent(loss: str, targets: int) -> Attack:
        return AutoProjectedGradient(norm=norm, eps=[1.0], steps=steps, loss=loss, targets=targets, restarts=restarts)

    minimum = FastMinimumNorm(norm=norm, steps=4 * steps)
    smallest: list[Attack] = [DeepFoolL2(), minimum]
    if norm is not Norm.LINF:
        smallest.append(CarliniWagnerL2(steps=2 * steps, binary_search_steps=4, stepsize=0.02, initial_const=0.1))
    margin, ratio = ascent("margin", 0), ascent("dlr", 3)
    whole = [margin, ratio, ascent("ce", 0)]
    others: list[Attack] = [Square(norm=norm, eps=[1.0], steps=10 * steps)]
    strong = [margin, ratio]
    if has_sparse_gradients(network):  # in float32 alone: distances in l_p are 30 times as slow in float64
        softened = Softened(norm=norm, eps=[1.0], steps=max(1, steps // 2), targets=2, restarts=restarts)
        strong, others = [softened, margin], [softened, *others]
    return Suite(
        [Trial(attack, True) for attack in smallest],
        [Trial(attack, True) for attack in strong],
        [Trial(minimum, True, starts=True)],
        [Trial(attack, single) for attack in whole for single in (True, False)]
        + [Trial(attack, True) for attack in others],
    )


def has_sparse_gradients(network: Network) -> bool:
    """Whether a network has distances in l∞, of which each has a gradient in one entry alone."""
    return any(getattr(operation, "p", None) == math.inf for operation in network.operations)
