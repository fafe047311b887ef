"""The Boundary attack (Brendel, Rauber & Bethge, ICLR 2018) in l2, through Foolbox: it sees answers, no gradients."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lipcert.attacks.adapter import MARGIN, borrowed, check, choose, load_foolbox
from lipcert.attacks.carlini_wagner import Rescaled
from lipcert.contracts import Norm


class Handicapped(Rescaled):
    """Rescaled, and the label's logit is `MARGIN` higher: an image that it gets wrong is wrong in float64 too."""

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        super().__init__(model, x)
        self.lead = MARGIN * nn.functional.one_hot(y, self.clean.shape[1]).to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.lead


@dataclass(kw_only=True)
class BoundaryL2:
    """`attack(model, x, y)`: the end of `steps` steps along the boundary, or the clean image where no start was found.

    It starts where a line to noise first leaves the class, the noise being the first of `directions` draws that is
    answered otherwise. A network may answer all noise alike, and images of that class then start on the line to the
    nearest image of the batch that is answered otherwise. A result depends on its batch: Foolbox draws one random
    direction a step for all of it.

    Successes are counted, for the step sizes to adapt, at every `adapt_every`-th step. Foolbox counts at every 10th: of
    500 steps too few to adapt more than once. On an ordinary digit network that left a median distance of 2.08; 1.27 at
    every step, for twice the evaluations. (Foolbox 1 tried up to 25 directions a step.) Other attacks come to 0.57.
    """

    steps: int = 500
    directions: int = 100
    adapt_every: int = 1
    batch_size: int = 500
    images: int | None = None
    seed: int | None = None  # None: the global random stream
    norm: Norm = field(default=Norm.L2, init=False)
    eps: Sequence[float] | None = field(default=None, init=False)
    label: str = field(init=False)

    def __post_init__(self) -> None:
        check(steps=self.steps, directions=self.directions, batch_size=self.batch_size, images=self.images)
        check(adapt_every=self.adapt_every)
        self.label = (
            f"boundary_l2-{self.steps}"
            + (f"-directions{self.directions}" if self.directions != 100 else "")
            + (f"-adapt{self.adapt_every}" if self.adapt_every != 1 else "")
        )

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, eps: Tensor | None = None) -> Tensor:
        if eps is not None:
            raise ValueError("`boundary_l2` looks for the smallest distance: it takes no `eps`")
        x, best = x.detach(), x.detach().clone()
        foolbox = load_foolbox()
        with borrowed(model, x, seed=self.seed), torch.no_grad():
            right = (Handicapped(model, x, y)(x).argmax(1) == y).nonzero()[:, 0]
            if not len(right):
                return best
            start = self._start(model, x[right], y[right])
            fell = Handicapped(model, x[right], y[right])(start).argmax(1) != y[right]
            rows = right[fell]
            if len(rows):
                judging = foolbox.PyTorchModel(
                    Handicapped(model, x[rows], y[rows]).eval(), bounds=(0, 1), device=x.device
                )
                attack = foolbox.attacks.BoundaryAttack(steps=self.steps, update_stats_every_k=self.adapt_every)
                best[rows] = attack.run(judging, x[rows], y[rows], starting_points=start[fell])
        return best

    def _start(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """A misclassified image for each, or whatever there is where none was found."""
        foolbox = load_foolbox()
        scaled = Handicapped(model, x, y).eval()
        judging = foolbox.PyTorchModel(scaled, bounds=(0, 1), device=x.device)
        noise = foolbox.attacks.LinearSearchBlendedUniformNoiseAttack(directions=self.directions, steps=50)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that some draws failed
            start = noise.run(judging, x, y)
        failed = scaled(start).argmax(1) == y
        answers = scaled.clean.argmax(1)
        if not failed.any() or not (answers != answers[0]).any():
            return start
        apart = torch.cdist(x.flatten(1), x.flatten(1)).masked_fill(answers == y[:, None], torch.inf)
        far, near = x[apart.argmin(1)], x
        for _ in range(20):
            middle = (near + far) / 2
            fell = scaled(middle).argmax(1) != y
            far, near = choose(fell, middle, far), choose(fell, near, middle)
        return choose(failed, far, start)
