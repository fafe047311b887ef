"""The Boundary attack (Brendel, Rauber & Bethge, ICLR 2018) in l2, by Foolbox. It needs answers, and no gradients."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from lipcert.attacks.adapter import as_foolbox, load_foolbox
from lipcert.attacks.batch import MARGIN, Answer, choose, rescaled, wrong_by
from lipcert.attacks.settings import check, label_of, refuse_radius, seeded, setting
from lipcert.contracts import Norm


def handicapped(answer: Answer, clean: Tensor, y: Tensor) -> Answer:
    """`answer` with rescaled logits, of which the label's is raised by `MARGIN`, so that an image which it
    misclassifies is misclassified in float64 too. The spread of the clean logits `clean` (B, K) becomes 10.
    """
    lead = MARGIN * one_hot(y, clean.shape[1])
    return lambda images: rescaled(answer(images), 10.0, like=clean) + lead


@dataclass(kw_only=True)
class BoundaryL2:
    """`attack(answer, x, y)` returns x moved by `steps` steps along the boundary, or x itself if no start was found.

    The start is where the line from the image to random noise first leaves the class; the noise is the first of
    `directions` draws that is classified differently. If all of them are classified like the image, the line goes to
    the nearest image of the batch that is classified differently. A result depends on its batch, because in each step
    Foolbox draws one random direction for the whole batch.

    Step sizes adapt to the successes, which are counted at every `adapt_every`-th step. Foolbox counts at every 10th
    step, so that within 500 steps the sizes adapt only once. Counting at every step costs twice the evaluations and
    comes much closer.
    """

    steps: int = 500
    directions: int = setting(100, "-directions{}")
    adapt_every: int = setting(1, "-adapt{}")
    batch_size: int = 500
    images: int | None = None
    seed: int | None = None  # None: the global random stream
    norm: Norm = field(default=Norm.L2, init=False)
    eps: Sequence[float] | None = field(default=None, init=False)
    label: str = field(init=False)

    def __post_init__(self) -> None:
        check(self, counts=("steps", "directions", "adapt_every"))
        self.label = label_of(self, f"boundary_l2-{self.steps}")

    @torch.no_grad()
    def __call__(self, answer: Answer, x: Tensor, y: Tensor, eps: Tensor | None = None) -> Tensor:
        refuse_radius("boundary_l2", eps)
        x, best = x.detach(), x.detach().clone()
        clean = answer(x)
        right = (wrong_by(rescaled(clean, 10.0), y) < MARGIN).nonzero()[:, 0]
        if not len(right):
            return best
        with seeded(self.seed, x.device):
            start, fell = self._start(answer, clean[right], x[right], y[right])
            rows = right[fell]
            if len(rows):
                judging = as_foolbox(handicapped(answer, clean[rows], y[rows]), x)
                attack = load_foolbox().attacks.BoundaryAttack(steps=self.steps, update_stats_every_k=self.adapt_every)
                best[rows] = attack.run(judging, x[rows], y[rows], starting_points=start[fell])
        return best

    def _start(self, answer: Answer, clean: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """An image to start from for each of `x`, (B, C, H, W), and which of these (B,) are indeed misclassified."""
        scaled = handicapped(answer, clean, y)
        noise = load_foolbox().attacks.LinearSearchBlendedUniformNoiseAttack(directions=self.directions, steps=50)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about draws that failed
            start = noise.run(as_foolbox(scaled, x), x, y)
        fell, answers = scaled(start).argmax(1) != y, clean.argmax(1)
        if fell.all() or (answers == answers[0]).all():
            return start, fell
        apart = torch.cdist(x.flatten(1), x.flatten(1)).masked_fill(answers == y[:, None], torch.inf)
        far, near = x[apart.argmin(1)], x
        for _ in range(20):
            middle = (near + far) / 2
            crossed = scaled(middle).argmax(1) != y
            far, near = choose(crossed, middle, far), choose(crossed, near, middle)
        start = choose(fell, start, far)
        return start, scaled(start).argmax(1) != y
