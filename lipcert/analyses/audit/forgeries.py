"""Forged certificates of a run: radii that are larger than what is proved, as a mistake in a bound would make them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lipcert.analyses.audit.block import Claim
from lipcert.certificates.pairwise import proved_radius
from lipcert.contracts import CertificateRow, Norm
from lipcert.datasets.split import Split
from lipcert.evaluation.load import LoadedRun
from lipcert.frozen import Network
from lipcert.frozen.error_walk import of_margins
from lipcert.frozen.exact import exact_arithmetic
from lipcert.frozen.lipschitz import Walk
from lipcert.frozen.pairs import pair_bounds
from lipcert.frozen.rounding import rounding

SHRUNK = (1 / 1.05, 1 / 1.25, 0.5, 0.2)  # factors on the bound of every pair of logits


class Forgery(NamedTuple):
    """Claims that are known to be too large.

    name     what was forged
    network  that the claims are made of, in `norm`, and the `images` that they are of
    """

    name: str
    network: Network
    norm: Norm
    images: Split
    claims: Sequence[Claim]


def of_run(run: LoadedRun, proofs: Sequence[CertificateRow]) -> Iterator[Forgery]:
    """The bound of all pairs made smaller, and the norm of one layer taken to be 1."""

    def forged(name: str, factors: Sequence[float]) -> Forgery:
        claims = [
            Claim(proof.index, proof.radius * factor, (proof.radius_float32 or 0.0) * factor)
            for proof, factor in zip(proofs, factors, strict=True)
        ]
        return Forgery(name, run.network, Norm(proofs[0].norm), run.dataset.test, claims)

    for factor in SHRUNK:
        yield forged(f"the bound × {factor:.4g}: radii × {1 / factor:.4g}", [1 / factor] * len(proofs))
    dropped = without_a_norm(run, proofs)
    if dropped:
        name, factors = dropped
        yield forged(name, factors)


def without_a_norm(run: LoadedRun, proofs: Sequence[CertificateRow]) -> tuple[str, list[float]] | None:
    """What radii are multiplied by if the largest norm of a layer is taken to be 1; None where no norm is above 1 or
    none enters a radius."""
    network = run.network
    with exact_arithmetic():
        walk = Walk(network, network.norm)
        errors = rounding(network, walk)
        taken = run.dataset.test.take(torch.tensor([proof.index for proof in proofs]))
        logits, labels = network(taken.pixels().double() / 255), taken.labels.long()
        radius = torch.tensor([proof.radius for proof in proofs], dtype=torch.float64)
        for value, gain in gains(walk):
            pairs = pair_bounds(DroppedWalk(network, value)).smallest()
            factor = (proved_radius(logits, labels, pairs, of_margins(errors, labels)) / radius).clamp_min(1)
            if bool((factor > 1 + 1e-6).any()):
                operation = network.operations[value - 1]
                return f"the norm {gain:.4g} of `{operation.name or operation.kind}` taken to be 1", factor.tolist()
    return None


def gains(walk: Walk) -> list[tuple[int, float]]:
    """(value, by how much more it may move than its one input), the largest first, of those above 1."""
    found = []
    for value, operation in enumerate(walk.network.operations, 1):
        if len(operation.inputs) == 1 and (before := walk.constant(operation.inputs[0])):
            found.append((value, walk.constant(value) / before))
    return sorted(((value, gain) for value, gain in found if gain > 1 + 1e-6), key=lambda pair: -pair[1])


class DroppedWalk(Walk):
    """A walk that is wrong: it claims that the value `dropped` moves no more than its input."""

    def __init__(self, network: Network, dropped: int):
        super().__init__(network, network.norm)
        self.dropped = dropped

    def checked(self, value: int, constant: Any, part: Tensor | None) -> Any:
        constant = super().checked(value, constant, part)
        if value != self.dropped:
            return constant
        return min(constant, self.constant(self.network.operations[value - 1].inputs[0]))
