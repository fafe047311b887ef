"""Projected gradient descent (Madry et al. 2018), through Foolbox with settings that make it strong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lipcert.attacks.adapter import Answer, as_foolbox, check, descent, per_image, radii, seeded
from lipcert.contracts import Norm


@dataclass(kw_only=True)
class ProjectedGradient:
    """`attack(answer, x, y, eps)` returns x after `steps` gradient steps, each projected onto the ball of radius eps.

    `norm`, l2 or linf, is that of the steps and of the ball; a step has length `rel_stepsize` * eps. `eps` None stands
    for the first radius of `self.eps`. Restarts see only the images that are not broken yet.

    Measured in both norms on two small digit networks, one of them adversarially trained: the defaults break 58 to 83 %
    of the images, Foolbox's own step size of 0.025 breaks 38 to 50 %, and 1000 steps break at most 0.7 points more than
    the defaults. "ce" on rescaled logits breaks 1 to 7.5 points more than "margin". Five restarts add 1 to 4 points and
    come within 0.5 points of ten restarts with 200 steps each: use them where the number matters.
    """

    norm: Norm
    eps: Sequence[float] | None
    steps: int = 40
    rel_stepsize: float = 0.2
    restarts: int = 1
    random_start: bool = True
    loss: str = "ce"
    batch_size: int = 500
    images: int | None = None
    seed: int | None = None  # None: the global random stream
    label: str = field(init=False)

    def __post_init__(self) -> None:
        check(norm=self.norm, loss=self.loss, batch_size=self.batch_size, images=self.images, restarts=self.restarts)
        check(steps=self.steps)
        if not self.rel_stepsize > 0:
            raise ValueError(f"`attack.rel_stepsize`: got {self.rel_stepsize}, must be above 0")
        if self.restarts > 1 and not self.random_start:
            raise ValueError("`attack.restarts`: without `random_start` every restart is the same; set one of them")
        self.norm, self.eps = Norm(self.norm), radii(self.eps or [])
        self.label = (
            f"pgd_{self.norm}-{self.steps}"
            + (f"-{self.loss}" if self.loss != "ce" else "")
            + (f"-step{self.rel_stepsize:g}" if self.rel_stepsize != 0.2 else "")
            + ("-fixed_start" if not self.random_start else "")
            + (f"-r{self.restarts}" if self.restarts > 1 else "")
        )

    @torch.enable_grad()
    def __call__(self, answer: Answer, x: Tensor, y: Tensor, eps: Tensor | None = None) -> Tensor:
        x = x.detach()
        model, radius = as_foolbox(answer, x), per_image(eps, self.eps, x)
        attack = descent(self.norm)(
            loss=self.loss, steps=self.steps, rel_stepsize=self.rel_stepsize, random_start=self.random_start
        )
        with seeded(self.seed, x.device):
            candidate = attack.run(model, x, y, epsilon=radius)
            for _ in range(self.restarts - 1):
                unbroken = (answer(candidate).argmax(1) == y).nonzero()[:, 0]
                if not len(unbroken):
                    break
                candidate[unbroken] = attack.run(model, x[unbroken], y[unbroken], epsilon=radius[unbroken])
        return candidate
