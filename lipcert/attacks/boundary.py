"""The Boundary attack (Brendel, Rauber & Bethge, ICLR 2018) in l2, through Foolbox: it sees answers, no gradients."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from lipcert.attacks.adapter import MARGIN, Answer, as_foolbox, check, choose, load_foolbox, rescaled, seeded, wrong_by
from lipcert.contracts import Norm


def handicapped(answer: Answer, clean: Tensor, y: Tensor) -> Answer:
    """`answer` with logits rescaled to a spread of 10 in `clean` (B, K), and the label's logit raised by `MARGIN`.

    An image that it misclassifies is misclassified in float64 too.
    """
    lead = MARGIN * one_hot(y, clean.shape[1])
    return lambda images: rescaled(answer(images), 10.0, like=clean) + lead


@dataclass(kw_only=True)
class BoundaryL2:
    """`attack(answer, x, y)` returns x moved by `steps` steps along the boundary, or x itself if no start was found.

    The start is where the line from the image to random noise first leaves the class; the noise is the first of
    `directions` draws that is classified differently. If all of them are classified like the image, the line goes to
    the nearest image of the batch that is classified differently. A result depends on its batch: in each step Foolbox
    draws one random direction for the whole batch.

    Step sizes adapt to the successes, which are counted at every `adapt_every`-th step. Foolbox counts at every 10th,
    too few of 500 steps to adapt more than once: on an ordinary digit network that gave a median distance of 2.08,
    counting at every step gives 1.27 for twice the evaluations. (Foolbox 1 tried up to 25 directions a step.) Other
    attacks reach 0.57.
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

    @torch.no_grad()
    def __call__(self, answer: Answer, x: Tensor, y: Tensor, eps: Tensor | None = None) -> Tensor:
        if eps is not None:
            raise ValueError("`boundary_l2` looks for the smallest distance: it takes no `eps`")
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
        """An image (B, C, H, W) to start from for each of `x`, and which of them (B,) are indeed misclassified."""
        scaled = handicapped(answer, clean, y)
        noise = load_foolbox().attacks.LinearSearchBlendedUniformNoiseAttack(directions=self.directions, steps=50)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that some draws failed
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
