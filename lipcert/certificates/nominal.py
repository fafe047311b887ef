"""Radii without a proof: they are right only if no image is steeper than the steepest one that was observed."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lipcert.attacks.judge import definite
from lipcert.certificates.pairwise import top_gap
from lipcert.contracts import BoundCertificate, Kind, Norm, Verdict
from lipcert.frozen import Network
from lipcert.frozen.gradients import Steepness, steepness
from lipcert.frozen.network import required


class Nominal:
    """l2 radii in which the largest value at the observed images replaces a Lipschitz constant:

    by "loss"      max(0, ln 2 − CE(x))/max ‖∇CE‖₂: an image with CE < ln 2 is classified correctly, and to change that
                   CE would have to rise to ln 2 (Finlay, Oberman & Abbasi, 2018, Lemma 3.2);
    by "jacobian"  margin/(√2·max ‖J‖₂), with J the Jacobian of the logits;
    by "rows"      margin/(2·max ‖J‖_{2,∞}), with the l2 norm of the longest row of J.

    These maxima are lower bounds of the constants that a proof would need, so the kind is `nominal`, and no such radius
    is certified. Where the maximum is 0 the radius is 0.

    Raises ValueError for a model that is certified in another norm, and where an image is judged before any was
    observed.
    """

    kind = Kind.NOMINAL

    def __init__(self, by: Literal["loss", "jacobian", "rows"] = "loss"):
        self.by = by

    def __call__(self, network: Network) -> BoundCertificate:
        if (norm := required(network).norm) is not Norm.L2:
            raise ValueError(f"`certificate=nominal` looks at gradients in l2, this model is certified in {norm}")
        steepest: dict[str, float] = {}

        def observe(x: Tensor, labels: Tensor) -> Steepness:
            seen = steepness(network.on(x.device), x, labels)
            for key, value in zip(("loss", "jacobian", "rows"), seen[1:], strict=True):
                steepest[key] = max(steepest.get(key, 0.0), float(value.max()))
            return seen

        def judge(x: Tensor, labels: Tensor) -> Verdict:
            if not steepest:
                raise ValueError("`certificate=nominal` needs observed images, and none has been observed yet")
            logits = network.on(x.device)(x)
            own = logits.gather(1, labels[:, None])
            margin = (own - logits.scatter(1, labels[:, None], -torch.inf)).amin(1)
            if self.by == "loss":
                room, speed = math.log(2) - F.cross_entropy(logits, labels, reduction="none"), 1.0
            else:
                room, speed = margin, math.sqrt(2) if self.by == "jacobian" else 2.0
            right = definite(logits, labels) & (margin > 0)
            largest = steepest[self.by] or math.inf
            radius = torch.where(right, room / (speed * largest), 0.0).clamp_min(0)
            return Verdict(logits.argmax(1), margin, radius, gap=top_gap(logits))

        return BoundCertificate(self.kind, norm, judge, observe=observe)
