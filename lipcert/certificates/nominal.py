"""Radii that nothing proves: right only if no image is steeper than the steepest one that was looked at."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lipcert.attacks.judge import definite
from lipcert.contracts import BoundCertificate, Kind, Norm, Verdict
from lipcert.frozen import Network
from lipcert.frozen.gradients import Steepness, steepness
from lipcert.frozen.network import required


class Nominal:
    """In l2, with the largest number seen at the images observed in the place of a Lipschitz constant:

    by "loss"      max(0, ln 2 − CE(x))/max ‖∇CE‖₂: an image with CE < ln 2 is classified rightly, and CE would have to
                   rise to ln 2 (Finlay, Oberman & Abbasi, 2018, Lemma 3.2);
    by "jacobian"  margin/(√2·max ‖J‖₂), J the Jacobian of the logits;
    by "rows"      margin/(2·max ‖J‖_{2,∞}), of its longest row.

    These maxima are lower bounds of the constants that a proof would need: the kind is `nominal`, and no such radius is
    certified. Where the maximum is 0 nothing is claimed at all: radius 0. ValueError for a model of another norm, and
    where an image is judged before any was observed.
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
                raise ValueError("`certificate=nominal` rests on images that it has observed, and it has seen none")
            logits = network.on(x.device)(x)
            own = logits.gather(1, labels[:, None])
            margin = (own - logits.scatter(1, labels[:, None], -torch.inf)).amin(1)
            if self.by == "loss":
                room, speed = math.log(2) - F.cross_entropy(logits, labels, reduction="none"), 1.0
            else:
                room, speed = margin, math.sqrt(2) if self.by == "jacobian" else 2.0
            right = definite(logits, labels) & (margin > 0)
            largest = steepest[self.by] or math.inf
            return Verdict(logits.argmax(1), margin, torch.where(right, room / (speed * largest), 0.0).clamp_min(0))

        return BoundCertificate(self.kind, norm, judge, observe=observe)
