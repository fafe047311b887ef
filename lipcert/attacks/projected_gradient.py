"""Projected gradient descent (Madry et al. 2018), through Foolbox with settings that make it strong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from lipcert.attacks.adapter import borrowed, check, descent, per_image, radii
from lipcert.contracts import Norm


@dataclass(kw_only=True)
class ProjectedGradient:
    """`attack(model, x, y, eps)`: `steps` steps of `rel_stepsize` * eps, each projected; eps None takes `self.eps[0]`.

    Measured on two small digit networks (ordinary, adversarially trained) in both norms: the defaults break 58 to 83 %,
    where Foolbox's own step of 0.025 breaks 38 to 50 % and 1000 steps at most 0.7 points more; "ce" on rescaled logits
    breaks 1 to 7.5 points more than "margin". Five restarts add 1 to 4 points and come within 0.5 of ten with 200 steps
    each: take them where the number matters. Restarts only see the images that are not broken yet.
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

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, eps: Tensor | None = None) -> Tensor:
        x = x.detach()
        with borrowed(model, x, seed=self.seed) as foolbox_model:
            attack = descent(self.norm)(
                loss=self.loss, steps=self.steps, rel_stepsize=self.rel_stepsize, random_start=self.random_start
            )
            radius = per_image(eps, self.eps, x)
            candidate = attack.run(foolbox_model, x, y, epsilon=radius)
            for _ in range(self.restarts - 1):
                unbroken = (foolbox_model(candidate).argmax(1) == y).nonzero()[:, 0]
                if not len(unbroken):
                    break
                candidate[unbroken] = attack.run(foolbox_model, x[unbroken], y[unbroken], epsilon=radius[unbroken])
        return candidate
