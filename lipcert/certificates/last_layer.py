"""The last-layer certificate: two logits share everything but the last rows, so only the rows' difference counts."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lipcert.bounds import Walk, image_signal
from lipcert.bounds.operator_norm import matrix_norm
from lipcert.certificates.margin import bound_report
from lipcert.certificates.pairwise import pairwise_judge
from lipcert.contracts import BoundCertificate, Kind, Norm


class LastLayer:
    """Radius min_i (y_t − y_i) / (L·‖w_t − w_i‖₂), L the bound of all before the last linear layer with rows w.

    Never smaller than the margin certificate's, as ‖w_t − w_i‖ ≤ ‖w_t‖ + ‖w_i‖ (Tsuzuku et al., NeurIPS 2018, Prop. 2).
    ValueError where the classifier is not `head(features(x))` with a linear head; that, and nothing else, is judged.
    """

    kind = Kind.PROOF

    def __call__(self, model: nn.Module, shape: tuple[int, ...]) -> BoundCertificate:
        features, head = getattr(model, "features", None), getattr(model, "head", None)
        if not isinstance(features, nn.Module) or not isinstance(head, nn.Linear):
            raise ValueError(
                "`certificate=last_layer` needs a shared trunk and one last linear layer; this model has "
                "none: use `certificate=margin`"
            )

        def logits_of(x: Tensor) -> Tensor:
            return head(features(x))

        probe = torch.linspace(0, 1, 2 * math.prod(shape), dtype=torch.float64).view(2, *shape)
        if not torch.equal(model(probe), logits_of(probe)):
            raise ValueError(
                "`certificate=last_layer` certifies head(features(x)), but that is not what this model answers: "
                "use `certificate=margin`"
            )
        walk = Walk()
        trunk = walk(features, image_signal(shape), "features")
        if trunk.lipschitz.dim():
            raise ValueError(
                "`certificate=last_layer` needs a shared trunk; this one is branched: use `certificate=margin`"
            )
        logits = walk(head, trunk, "head")  # also the head's own rounding error
        claimed = Walk(False, walk.norms)(features, image_signal(shape), "features").lipschitz
        rows = head.weight.detach().double()
        difference = matrix_norm((rows[:, None] - rows[None]).unsqueeze(-2))  # (K, K) norms of 1 × D matrices
        pairs = difference * trunk.lipschitz * (1 + 4e-16)
        report = bound_report(trunk.lipschitz, torch.as_tensor(claimed), walk.rows[:-1])
        return BoundCertificate(self.kind, Norm.L2, pairwise_judge(logits_of, pairs, logits.error), report)
