"""Projected gradient descent (Madry et al., ICLR 2018), with settings that make it strong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from lipcert.attacks.balls import BALLS
from lipcert.attacks.batch import Answer, rescaled, wrong_by
from lipcert.attacks.settings import check, label_of, radii, radius_of, seeded, setting
from lipcert.contracts import Norm


@dataclass(kw_only=True)
class ProjectedGradient:
    """`attack(answer, x, y, eps)` returns x after `steps` gradient steps, each projected onto the ball of radius eps.

    `norm`, l2 or linf, is that of the steps and of the ball; a step has length `rel_stepsize`·eps. Each step raises the
    `loss`: "ce", the cross-entropy, or "margin", the largest wrong logit minus the label's. `eps` None stands for the
    first radius of `self.eps`. Restarts see only the images that are not broken yet; use five where the number matters.
    The default step is much longer than Foolbox's (0.025 of the radius), which breaks far fewer images.

    Raises ValueError for an `x` outside [0, 1], for a radius that is negative or NaN, and where there is no radius.
    """

    norm: Norm
    eps: Sequence[float] | None
    steps: int = 40
    loss: str = setting("ce", "-{}")
    rel_stepsize: float = setting(0.2, "-step{:g}")
    random_start: bool = setting(True, "-fixed_start")
    restarts: int = setting(1, "-r{}")
    batch_size: int = 500
    images: int | None = None
    seed: int | None = None  # None: the global random stream
    label: str = field(init=False)

    def __post_init__(self) -> None:
        check(self, counts=("steps", "restarts"), positive=("rel_stepsize",))
        if self.restarts > 1 and not self.random_start:
            raise ValueError("`attack.restarts`: without `random_start` all restarts are equal; set one of them")
        self.norm, self.eps = Norm(self.norm), radii(self.eps or [])
        self.label = label_of(self, f"pgd_{self.norm}-{self.steps}")

    @torch.enable_grad()
    def __call__(self, answer: Answer, x: Tensor, y: Tensor, eps: Tensor | None = None) -> Tensor:
        x = x.detach()
        radius = radius_of(self, eps, x)
        with seeded(self.seed, x.device):
            candidate = self._ascend(answer, x, y, radius)
            for _ in range(self.restarts - 1):
                rows = (answer(candidate).argmax(1) == y).nonzero()[:, 0]
                if not len(rows):
                    break
                candidate[rows] = self._ascend(answer, x[rows], y[rows], radius[rows])
        return candidate

    def _ascend(self, answer: Answer, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
        """One run, within `radius` (B, 1, 1, 1) of `x` up to rounding."""
        ball = BALLS[self.norm]
        found = (x + radius * ball.random(x)).clamp(0, 1) if self.random_start else x
        for _ in range(self.steps):
            start = found.detach().requires_grad_()
            logits = rescaled(answer(start), 4.0)  # raw logits that are large or tiny lose the gradient of "ce"
            loss = F.cross_entropy(logits, y, reduction="sum") if self.loss == "ce" else wrong_by(logits, y).sum()
            (gradient,) = torch.autograd.grad(loss, start)
            moved = found + self.rel_stepsize * radius * ball.steepest(gradient)
            found = (x + radius * ball.project((moved - x) / radius)).clamp(0, 1)
        return found
