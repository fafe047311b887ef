"""The last-layer certificate on norms that hold with a probability (Tsuzuku et al., NeurIPS 2018, Theorem 2)."""

from __future__ import annotations

from torch import Tensor, nn

from lipcert.bounds import Operator, Walk, statistical_norm
from lipcert.certificates.last_layer import LastLayer
from lipcert.contracts import BoundCertificate, Kind, Norm


class Statistical(LastLayer):
    """LMT's own evaluation: every norm from `starts` power iterations of `iterations` steps at most, none of them below
    the truth but with probability (2/π)^(starts/2); the report adds these up over the layers.

    Its radii are no proofs, and `certificate=last_layer` has larger ones where it measures exactly: this is for
    comparison with what was published. ValueError as for LastLayer, and for a model that is certified in l_inf.
    """

    kind = Kind.STATISTICAL

    def __init__(self, starts: int = 128, iterations: int = 1000, seed: int = 0):
        if starts < 1 or iterations < 2:
            raise ValueError(
                f"`certificate.starts` must be at least 1, `certificate.iterations` 2; got {starts} and {iterations}"
            )
        self.starts, self.iterations, self.seed = starts, iterations, seed

    def __call__(self, model: nn.Module, shape: tuple[int, ...]) -> BoundCertificate:
        self.failure = 0.0
        bound = super().__call__(model, shape)
        bound.report["failure_probability"] = self.failure
        return bound

    def walk(self) -> Walk:
        return Walk(measure=self.measure)

    def measure(self, operator: Operator, norm: Norm) -> Tensor:
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
