"""The fast gradient method (Goodfellow, Shlens & Szegedy, ICLR 2015): one step of the whole radius."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from lipcert.attacks.batch import Answer
from lipcert.attacks.projected_gradient import ProjectedGradient
from lipcert.attacks.settings import check, label_of, radii, setting
from lipcert.contracts import Norm


@dataclass(kw_only=True)
class FastGradient:
    """`attack(answer, x, y, eps)` returns x after one gradient step of length eps in `norm`, which is l2 or linf.

    `eps` None stands for the first radius of `self.eps`. `loss` is "margin" or "ce"; with "margin", the default, one
    step breaks more images. Raises the errors of `ProjectedGradient`.
    """

    norm: Norm
    eps: Sequence[float] | None
    loss: str = setting("margin", "-{}")
    batch_size: int = 500
    images: int | None = None
    label: str = field(init=False)

    def __post_init__(self) -> None:
        check(self)
        self.norm, self.eps = Norm(self.norm), radii(self.eps or [])
        self.label = label_of(self, f"fgsm_{self.norm}")

    def __call__(self, answer: Answer, x: Tensor, y: Tensor, eps: Tensor | None = None) -> Tensor:
        step = ProjectedGradient(
            norm=self.norm, eps=self.eps, loss=self.loss, steps=1, rel_stepsize=1.0, random_start=False
        )
        return step(answer, x, y, eps)
