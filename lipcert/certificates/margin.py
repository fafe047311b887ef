"""The margin certificate: radius = margin / (how fast a difference of two logits can move)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lipcert.bounds import Walk, image_signal, note_costs
from lipcert.certificates.pairwise import pairwise_judge
from lipcert.contracts import BoundCertificate, Kind, Norm


class Margin:
    """Radius margin/(√2·L) in l2, margin/(2·L) in l_inf, where the vector of logits is L-Lipschitz;
    margin/(L_t + L_i) where each logit has its own bound (2 for L = 1). The norm is the model's.

    Qian & Wegman, ICLR 2019, §2.1; the √2 is Tsuzuku et al., 2018, Prop. 1; l_inf is Zhang et al., ICML 2021, Fact 3.6.
    """

    kind = Kind.PROOF

    def __call__(self, model: nn.Module, shape: tuple[int, ...]) -> BoundCertificate:
        walk, image = Walk(), image_signal(shape, norm=norm_of(model))
        signal = walk(model, image)
        pairs = logit_pairs(signal.lipschitz, signal.shape[0], signal.norm)
        claimed = Walk(False, walk.norms)(model, image).lipschitz
        note_costs(walk.rows, walk, model, image)
        report = bound_report(signal.lipschitz, claimed, walk.rows)
        return BoundCertificate(self.kind, signal.norm, pairwise_judge(model, pairs, signal.error), report, pairs)


def norm_of(model: nn.Module) -> Norm:
    """The norm that a classifier is certified in."""
    return Norm(getattr(model, "norm", Norm.L2))


def logit_pairs(lipschitz: Tensor, classes: int, norm: Norm = Norm.L2) -> Tensor:
    """(K, K) bounds of how fast y_t − y_i moves, from one bound for the whole vector or one a logit; rounded up."""
    if lipschitz.dim() == 0:
        both = math.sqrt(2) if norm is Norm.L2 else 2.0
        return (lipschitz * both).expand(classes, classes) * (1 + 4e-16)
    return (lipschitz[:, None] + lipschitz[None]) * (1 + 4e-16)


def bound_report(measured: Tensor, claimed: Tensor, rows: list[dict]) -> dict:
    """The bound with the layers' real norms, the one their schemes promise, and what the first gains the radii."""
    slack = torch.tensor([row.get("gram_slack", 1.0) for row in rows], dtype=torch.float64).prod()
    return {
        "lipschitz_bound": float(measured.max()),
        "lipschitz_by_construction": float(claimed.max()),
        "enlargement": float((claimed / measured).min()),
        "gram_slack": float(slack),
        "layers": rows,
    }
