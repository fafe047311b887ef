"""The fast minimum-norm attack (Pintor et al., NeurIPS 2021): the smallest distance in l1, l2 and l_inf."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lipcert.attacks.balls import L2Ball, inside
from lipcert.attacks.batch import MARGIN, Answer, direction, lead_of, per_image, rescaled, wrong_by
from lipcert.attacks.judge import distance
from lipcert.attacks.settings import check, label_of, refuse_radius, seeded, setting
from lipcert.contracts import Norm

ORDER = {Norm.L1: 1.0, Norm.L2: 2.0, Norm.LINF: math.inf}
DUAL = {Norm.L1: Norm.LINF, Norm.L2: Norm.L2, Norm.LINF: Norm.L1}


@dataclass(kw_only=True)
class FastMinimumNorm:
    """`attack(answer, x, y)` returns the closest misclassified image that it found, or x itself if it found none.

    Each step goes along the gradient of the margin, then onto the ball of a radius that shrinks by a fraction of itself
    while the image is misclassified, and grows by it while it is not. Before the first success the radius is a little
    beyond where the boundary would be if the network were linear. Steps fall from `stepsize` (in l2) to a hundredth of
    it, and that fraction from `shrink` to 0.001, both by a cosine. At last `bisections` steps bisect between x and what
    was found.

    `start` are images to begin from, such as another attack has found: where one is misclassified, the attack begins
    where the way to it leaves the class, and returns nothing that is farther.

    An image counts as found if it is wrong by `MARGIN` at logits that are rescaled to a spread of 10 on the clean
    image, so that it is wrong in float64 too. The attack has no random start; only a gradient of 0 is replaced by a
    random direction.
    """

    norm: Norm
    steps: int = 200
    stepsize: float = setting(1.0, "-step{:g}")
    shrink: float = setting(0.05, "-shrink{:g}")
    bisections: int = setting(10, "-bisections{}")
    batch_size: int = 500
    images: int | None = None
    seed: int | None = None  # None: the global random stream
    eps: Sequence[float] | None = field(default=None, init=False)
    label: str = field(init=False)

    def __post_init__(self) -> None:
        check(self, counts=("steps",), positive=("stepsize", "shrink"), norms=tuple(Norm))
        if not self.shrink < 1:
            raise ValueError(f"`attack.shrink`: got {self.shrink}, must be below 1")
        if not isinstance(self.bisections, int) or self.bisections < 0:
            raise ValueError(f"`attack.bisections`: got {self.bisections!r}, must be a whole number of at least 0")
        self.norm = Norm(self.norm)
        self.label = label_of(self, f"fmn_{self.norm}-{self.steps}")

    @torch.no_grad()
    def __call__(
        self, answer: Answer, x: Tensor, y: Tensor, eps: Tensor | None = None, start: Tensor | None = None
    ) -> Tensor:
        refuse_radius(self.label, eps)
        x = x.detach()
        clean = answer(x)
        best, smallest = x.clone(), x.new_full((len(x),), torch.inf)

        def see(images: Tensor, lead: Tensor) -> Tensor:
            """Keeps what is closer than before, and returns which images are misclassified."""
            wrong, far = lead >= MARGIN, distance(self.norm, images, x).to(x.dtype)
            closer = wrong & (far < smallest)
            smallest[closer], best[closer] = far[closer], images[closer]
            return wrong

        def bisect() -> None:
            """Moves the best images towards x, along their projections onto smaller balls."""
            if not smallest.isfinite().any():
                return
            low, high = torch.zeros_like(smallest), torch.where(smallest.isfinite(), smallest, 0.0)
            ends = best.clone()
            for _ in range(self.bisections):
                middle = (low + high) / 2
                between = inside(self.norm, ends, x, per_image(middle, x).clamp_min(1e-12))
                wrong = see(between, lead_of(answer(between), clean, y))
                low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)

        if start is not None:
            see(start, lead_of(answer(start), clean, y))
            bisect()
        with seeded(self.seed, x.device):
            self._descend(answer, x, y, clean, best, smallest, see)
        bisect()
        return best

    def _descend(
        self,
        answer: Answer,
        x: Tensor,
        y: Tensor,
        clean: Tensor,
        best: Tensor,
        smallest: Tensor,
        see: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        """The steps, from what is best. `see` is shown every point, and keeps `best` and `smallest`."""
        farthest = torch.linalg.vector_norm(x.maximum(1 - x).flatten(1), ORDER[self.norm], dim=1)
        point, radius = best.clone(), smallest.clone()
        for step in range(self.steps):
            rest = (1 + math.cos(math.pi * step / self.steps)) / 2
            with torch.enable_grad():
                at = point.requires_grad_()
                logits = answer(at)
                margin = wrong_by(rescaled(logits, 10.0, like=clean), y)
                (gradient,) = torch.autograd.grad(margin.sum(), at)
            point, margin = point.detach(), margin.detach()
            blocked = ((point <= 0) & (gradient < 0)) | ((point >= 1) & (gradient > 0))
            gradient = gradient.masked_fill(blocked, 0)
            wrong = see(point, lead_of(logits.detach(), clean, y))
            shrink = 0.001 + (self.shrink - 0.001) * rest
            dual = torch.linalg.vector_norm(gradient.flatten(1), ORDER[DUAL[self.norm]], dim=1)
            ahead = ((1 + shrink) * margin.abs() + 2 * MARGIN) / dual  # a little beyond a linear network's boundary
            boundary = distance(self.norm, point, x).to(x.dtype) + ahead
            outward = torch.where(smallest.isfinite(), radius * (1 + shrink), boundary)
            radius = torch.where(wrong, (radius * (1 - shrink)).minimum(smallest), outward)
            radius = radius.nan_to_num(torch.inf).minimum(farthest).clamp_min(1e-12)
            move = self.stepsize * (0.01 + 0.99 * rest) * L2Ball().steepest(direction(gradient))
            point = inside(self.norm, point + move, x, per_image(radius, x))
