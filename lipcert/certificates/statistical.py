"""The pairwise certificate on norms that hold with a probability (Tsuzuku et al., NeurIPS 2018, Theorem 2)."""

from __future__ import annotations

from torch import Tensor

from lipcert.certificates.pairwise import Pairwise
from lipcert.contracts import BoundCertificate, Kind, Norm
from lipcert.frozen import Network
from lipcert.norms import Operator
from lipcert.norms.comparison import statistical_norm


class Statistical(Pairwise):
    """LMT's own evaluation: every norm from `starts` power iterations of `iterations` steps at most, none of them below
    the truth but with probability (2/π)^(starts/2); the report adds these up over the layers.

    Its radii are no proofs, and `certificate=pairwise` has larger ones where it measures exactly: this is for
    comparison with what was published. ValueError for a network that is certified in another norm than l2.
    """

    kind = Kind.STATISTICAL

    def __init__(self, starts: int = 128, iterations: int = 1000, seed: int = 0):
        super().__init__()
        if starts < 1 or iterations < 2:
            raise ValueError(
                f"`certificate.starts` must be at least 1, `certificate.iterations` 2; got {starts} and {iterations}"
            )
        self.starts, self.iterations, self.seed = starts, iterations, seed
        self.measure = self.statistically

    def __call__(self, network: Network) -> BoundCertificate:
        self.failure = 0.0
        bound = super().__call__(network)
        bound.report["failure_probability"] = self.failure
        return bound

    def statistically(self, operator: Operator, norm: Norm) -> Tensor:
        """The norm, which holds but with a probability that is added to `failure`."""
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
