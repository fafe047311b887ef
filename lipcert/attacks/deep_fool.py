"""DeepFool (Moosavi-Dezfooli, Fawzi & Frossard, CVPR 2016) in l2, by Foolbox: steps to the nearest boundary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lipcert.attacks.adapter import as_foolbox, load_foolbox
from lipcert.attacks.batch import MARGIN, Answer, choose, rescaled, wrong_by
from lipcert.attacks.settings import check, label_of, refuse_radius, setting
from lipcert.contracts import Norm

PUSHES = (1.0001, 1.001, 1.01)  # tried in turn, as factors of the perturbation, where a result is wrong by too little


@dataclass(kw_only=True)
class DeepFoolL2:
    """`attack(answer, x, y)` returns the image at which DeepFool first left the class, or x itself if it never did.

    Each step treats the network as linear and goes 1e-4 beyond the nearest boundary with one of the `candidates`
    classes that rank first on the clean image (its own class is one of them; None: all). `overshoot` lengthens the
    whole perturbation by that fraction. The attack is deterministic, and other images in the batch change a result by
    rounding only. Foolbox's choice of a loss is not offered: differences of log-probabilities are differences of
    logits.

    Foolbox sees logits that are rescaled, image by image, to a spread of 10 on the clean image, because it adds 1e-8 to
    the norms of gradients and therefore fails where logits are tiny. It also stops at any change of class, often one in
    the last bits of float32. Where a result is wrong by less than `MARGIN`, its perturbation is lengthened by one of
    `PUSHES`, at most by 1 %.
    """

    steps: int = 50
    overshoot: float = setting(0.02, "-overshoot{:g}")
    candidates: int | None = setting(10, "-top{}", none="-all")
    batch_size: int = 500
    images: int | None = None
    norm: Norm = field(default=Norm.L2, init=False)
    eps: Sequence[float] | None = field(default=None, init=False)
    label: str = field(init=False)

    def __post_init__(self) -> None:
        check(self, counts=("steps", "candidates"))
        if self.candidates == 1:
            raise ValueError("`attack.candidates`: got 1, must be at least 2 (the image's own class is one) or null")
        if not 0 <= self.overshoot < float("inf"):
            raise ValueError(f"`attack.overshoot`: got {self.overshoot}, must be at least 0")
        self.label = label_of(self, f"deepfool_l2-{self.steps}")

    @torch.enable_grad()
    def __call__(self, answer: Answer, x: Tensor, y: Tensor, eps: Tensor | None = None) -> Tensor:
        refuse_radius("deepfool_l2", eps)
        x = x.detach()
        clean = answer(x).detach()
        scaled = as_foolbox(lambda images: rescaled(answer(images), 10.0, like=clean), x)
        attack = load_foolbox().attacks.L2DeepFoolAttack(
            steps=self.steps, candidates=self.candidates, overshoot=self.overshoot
        )
        found = attack.run(scaled, x, y)
        best, margin = found, wrong_by(scaled(found), y)
        for push in PUSHES:
            if (margin >= MARGIN).all():
                break
            pushed = (x + push * (found - x)).clamp(0, 1)
            further = wrong_by(scaled(pushed), y)
            better = (margin < MARGIN) & (further > margin)
            best, margin = choose(better, pushed, best), torch.where(better, further, margin)
        return choose(margin > 0, best, x)
