"""The pairwise certificate on norms that hold with a probability (Tsuzuku et al., NeurIPS 2018, Theorem 2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from lipcert.certificates.pairwise import Pairwise
from lipcert.contracts import BoundCertificate, Kind, Norm
from lipcert.frozen import Network
from lipcert.frozen.lipschitz import Measure, Walk
from lipcert.norms import Operator
from lipcert.norms.comparison import statistical_norm


class Statistical(Pairwise):
    """LMT's own evaluation, for comparison with published numbers. Its radii are not proofs, and `certificate=pairwise`
    finds larger ones where it measures exactly.

    Every layer's norm comes from `starts` power iterations of at most `iterations` steps each, and is too small with
    probability at most (2/π)^(starts/2). The report adds these probabilities up over the layers. The norms of some rows
    of a layer alone, which are small matrices, are proved.

    Raises ValueError for a network that is certified in another norm than l2.
    """

    kind = Kind.STATISTICAL

    def __init__(self, starts: int = 128, iterations: int = 1000, seed: int = 0):
        super().__init__()
        if starts < 1 or iterations < 2:
            given = f"{starts} and {iterations}"
            raise ValueError(f"`certificate.starts` and `certificate.iterations` must be at least 1 and 2, got {given}")
        self.starts, self.iterations, self.seed = starts, iterations, seed

    def __call__(self, network: Network) -> BoundCertificate:
        self.failure = 0.0
        bound = super().__call__(network)
        bound.report["failure_probability"] = self.failure
        return bound

    def walk(self, network: Network) -> Walk:
        return _LayersWalk(network, network.norm, self.statistically)

    def statistically(self, operator: Operator, norm: Norm) -> Tensor:
        """The norms (groups,) of an operator; the probability that they are too small is added to `failure`."""
        if norm is not Norm.L2:
            raise ValueError("`certificate=statistical` is for networks certified in l2")
        norm_, failure = statistical_norm(
            lambda u: operator.transpose(operator.apply(u)),
            operator.domain,
            starts=self.starts,
            iterations=self.iterations,
            seed=self.seed,
            device=operator.weight.device,
        )
        self.failure += failure
        return norm_.expand(operator.groups)


class _LayersWalk(Walk):
    """Measures whole layers by `measure`, and proves the norms of some of their rows."""

    def __init__(self, network: Network, norm: Norm, measure: Measure):
        super().__init__(network, norm, measure)
        self.proof = Walk(network, norm)
        self.proof.norms = self.norms

    def measured(
        self, value: int, group: int | None, rows: Tensor | None, operator: Callable[[], Operator], fused: int = 0
    ) -> Any:
        if rows is not None:
            return self.proof.measured(value, group, rows, operator, fused)
        return super().measured(value, group, rows, operator, fused)
