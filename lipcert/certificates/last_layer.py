"""The last-layer certificate: two logits share everything but the last rows, so only the rows' difference counts."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lipcert.bounds import Walk, image_signal, note_costs
from lipcert.bounds.operator_norm import matrix_norm
from lipcert.certificates.margin import bound_report, norm_of
from lipcert.certificates.pairwise import pairwise_judge
from lipcert.contracts import BoundCertificate, Kind, Norm


class LastLayer:
    """Radius min_i (y_t − y_i) / (L·‖w_t − w_i‖), L the bound of all before the last linear layer with rows w, and
    ‖·‖ the dual of the model's norm: l2, or l1 where the model is certified in l_inf.

    Never smaller than the margin certificate's, as ‖w_t − w_i‖ ≤ ‖w_t‖ + ‖w_i‖ (Tsuzuku et al., NeurIPS 2018, Prop. 2).
    ValueError where the classifier is not `head(features(x))` with a linear head; that, and nothing else, is judged.
    """

    kind = Kind.PROOF

    def __call__(self, model: nn.Module, shape: tuple[int, ...]) -> BoundCertificate:
        features, head = split(model, shape, "last_layer")
        if not isinstance(head, nn.Linear):
            raise ValueError(
                "`certificate=last_layer` needs a shared trunk and one last linear layer; this model has "
                "none: use `certificate=margin`"
            )
        image = image_signal(shape, norm=norm_of(model))
        walk = self.walk()
        trunk = walk(features, image, "features")
        if trunk.lipschitz.dim():
            raise ValueError(
                "`certificate=last_layer` needs a shared trunk; this one is branched: use `certificate=margin`"
            )
        logits = walk(head, trunk, "head")  # also the head's own rounding error
        claimed = Walk(False, walk.norms, walk.measure)(features, image, "features").lipschitz
        rows = head.weight.detach().double()
        difference = length((rows[:, None] - rows[None]), trunk.norm)  # (K, K)
        pairs = difference * trunk.lipschitz * (1 + 4e-16)
        layers = walk.rows[:-1]
        note_costs(layers, walk, features, image, "features")
        report = bound_report(trunk.lipschitz, torch.as_tensor(claimed), layers)
        judge = pairwise_judge(lambda x: head(features(x)), pairs, logits.error)
        return BoundCertificate(self.kind, trunk.norm, judge, report, pairs)

    def walk(self) -> Walk:
        return Walk()


def length(rows: Tensor, norm: Norm) -> Tensor:
    """How far ⟨row, z⟩ moves while z moves by 1 in `norm`, rounded up: the row's dual norm; (..., D) to (...)."""
    if norm is Norm.L2:
        return matrix_norm(rows.unsqueeze(-2))
    return rows.abs().sum(-1) * (1 + 2 * rows.shape[-1] * 2.0**-53)


def split(model: nn.Module, shape: tuple[int, ...], certificate: str) -> tuple[nn.Module, nn.Module]:
    """(features, head) of a classifier that is head(features(x)); ValueError where it is anything else."""
    features, head = getattr(model, "features", None), getattr(model, "head", None)
    if not isinstance(features, nn.Module) or not isinstance(head, nn.Module):
        raise ValueError(
            f"`certificate={certificate}` needs a model that names its `features` and its `head`: use "
            "`certificate=margin`"
        )
    probe = torch.linspace(0, 1, 2 * math.prod(shape), dtype=torch.float64).view(2, *shape)
    if not torch.equal(model(probe), head(features(probe))):
        raise ValueError(
            f"`certificate={certificate}` certifies head(features(x)), but that is not what this model answers: "
            "use `certificate=margin`"
        )
    return features, head
