"""AutoPGD for networks of l∞ distances, each of whose gradients names a single pixel: it follows softer gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lipcert.attacks.auto_projected_gradient import AutoProjectedGradient
from lipcert.attacks.batch import MARGIN, Answer, choose, lead_of
from lipcert.attacks.settings import check, label_of, radii, radius_of, seeded, setting
from lipcert.contracts import Norm


@dataclass(kw_only=True)
class Softened:
    """`attack(answer, x, y, eps)` returns, of all images that it saw within eps, the one that is wrong by most.

    `AutoProjectedGradient` attacks `answer.softened(p)`, which has the logits of the frozen network `answer` and softer
    gradients, for each p of `exponents` in turn, and then `answer` itself, from the best images. An `answer` that has
    no `softened` is attacked as it is. Other settings and errors are those of `AutoProjectedGradient`.
    """

    eps: Sequence[float] | None
    norm: Norm = Norm.LINF
    exponents: Sequence[float] = (32.0, 128.0)
    steps: int = 40
    loss: str = setting("margin", "-{}")
    targets: int = setting(3, "-t{}")
    restarts: int = setting(1, "-r{}")
    batch_size: int = 500
    images: int | None = None
    seed: int | None = None  # None: the global random stream
    label: str = field(init=False)

    def __post_init__(self) -> None:
        check(self, norms=tuple(Norm))
        if not all(1 <= p < float("inf") for p in self.exponents):
            raise ValueError(f"`attack.exponents`: got {list(self.exponents)}, must be at least 1 and finite")
        self.norm, self.eps = Norm(self.norm), radii(self.eps or [])
        self.exponents = tuple(map(float, self.exponents))
        self.ascent = AutoProjectedGradient(
            norm=self.norm,
            eps=self.eps,
            steps=self.steps,
            loss=self.loss,
            targets=self.targets,
            restarts=self.restarts,
        )
        other = "" if self.exponents == (32.0, 128.0) else f"-p{'+'.join(f'{p:g}' for p in self.exponents)}"
        self.label = label_of(self, f"softened_{self.norm}-{self.steps}{other}")

    @torch.no_grad()
    def __call__(self, answer: Answer, x: Tensor, y: Tensor, eps: Tensor | None = None) -> Tensor:
        x = x.detach()
        radius, clean = radius_of(self, eps, x).flatten(), answer(x)
        best, lead = x.clone(), lead_of(clean, clean, y)
        soft = getattr(answer, "softened", None)
        with seeded(self.seed, x.device):
            for p in (*(self.exponents if soft else ()), None):
                rows = (lead < MARGIN).nonzero()[:, 0]
                if not len(rows):
                    break
                follow, start = (answer, best[rows]) if p is None or soft is None else (soft(p), None)
                found = self.ascent(follow, x[rows], y[rows], radius[rows], start)
                reached = lead_of(answer(found), clean[rows], y[rows])
                better = reached > lead[rows]
                best[rows], lead[rows] = choose(better, found, best[rows]), reached.maximum(lead[rows])
        return best
