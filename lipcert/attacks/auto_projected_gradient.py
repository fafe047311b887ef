"""AutoPGD (Croce & Hein, ICML 2020 and 2021): projected gradient ascent that adapts its steps, with several losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lipcert.attacks.ascent import Climb, Dense, Sparse
from lipcert.attacks.balls import inside
from lipcert.attacks.batch import MARGIN, Answer, choose, lead_of
from lipcert.attacks.objectives import OBJECTIVES
from lipcert.attacks.settings import check, label_of, radii, radius_of, seeded, setting
from lipcert.contracts import Norm


@dataclass(kw_only=True)
class AutoProjectedGradient:
    """`attack(answer, x, y, eps)` returns, of all images that it saw within eps, the one that is wrong by most.

    Each loss of `loss` is tried in turn, with `restarts` random starts: "ce", "dlr" and "margin" (see
    `attacks.objectives`), several joined by a +. The last two aim at each of the `targets` wrong classes that are most
    likely on the clean image, one after another; with `targets` 0 they are untargeted. Images that are wrong by
    `MARGIN` are left out from then on. In l1, as in the paper, the radius is three and two times eps for the first
    steps. `eps` None stands for the first radius of `self.eps`; `start`, images to begin from, replaces random starts.

    Logits are rescaled, image by image, to what they are on the clean image, so that networks with tiny or huge logits
    are attacked as well as others. Where a gradient is 0, the step goes in a random direction.

    Raises the errors of `ProjectedGradient`.
    """

    norm: Norm
    eps: Sequence[float] | None
    steps: int = 100
    loss: str = setting("ce+dlr", "-{}")
    targets: int = setting(9, "-t{}")
    restarts: int = setting(1, "-r{}")
    batch_size: int = 500
    images: int | None = None
    seed: int | None = None  # None: the global random stream
    label: str = field(init=False)

    def __post_init__(self) -> None:
        check(self, counts=("steps", "restarts"), norms=tuple(Norm), losses=tuple(OBJECTIVES), several=True)
        if not isinstance(self.targets, int) or self.targets < 0:
            raise ValueError(f"`attack.targets`: got {self.targets!r}, must be a whole number of at least 0")
        self.norm, self.eps = Norm(self.norm), radii(self.eps or [])
        self.label = label_of(self, f"apgd_{self.norm}-{self.steps}")

    @torch.no_grad()
    def __call__(
        self, answer: Answer, x: Tensor, y: Tensor, eps: Tensor | None = None, start: Tensor | None = None
    ) -> Tensor:
        x = x.detach()
        radius, clean = radius_of(self, eps, x), answer(x)
        ranked = clean.scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)  # the label comes last
        best, lead = x.clone(), lead_of(clean, clean, y)

        def see(climb: Climb) -> Tensor:
            """Keeps what is better than before. Returns which images of the climb are not decided."""
            rows, better = climb.rows, climb.lead > lead[climb.rows]
            best[rows], lead[rows] = choose(better, climb.point, best[rows]), climb.lead.maximum(lead[rows])
            return (lead[rows] < MARGIN).nonzero()[:, 0]

        with seeded(self.seed, x.device):
            for loss, rank in self._tries(clean.shape[1]):
                rows = (lead < MARGIN).nonzero()[:, 0]
                if not len(rows):
                    break
                target = None if rank is None else ranked[rows, rank]
                climb = Climb(answer, OBJECTIVES[loss], rows, x[rows], y[rows], clean[rows], target)
                self._run(climb, radius, start, see)
        return best

    def _tries(self, classes: int) -> Iterator[tuple[str, int | None]]:
        """What is tried in turn: a loss, and the rank of the class that it aims at, if it does."""
        for loss in self.loss.split("+"):
            untargeted = loss == "ce" or not self.targets
            aims: list[int | None] = [None] if untargeted else [*range(min(self.targets, classes - 1))]
            for aim in aims:
                yield from [(loss, aim)] * self.restarts

    def _run(self, climb: Climb, radius: Tensor, start: Tensor | None, see: Callable[[Climb], Tensor]) -> None:
        """One ascent of the images of `climb` from random points or from `start`, shown to `see` at every step."""
        ascent = Sparse() if self.norm == Norm.L1 else Dense(self.norm)
        point = None if start is None else start[climb.rows]
        for factor, steps in self._stages():
            reach, random = factor * radius[climb.rows], point is None
            point = ascent.random(climb.x, reach) if point is None else inside(self.norm, point, climb.x, reach)
            climb.place(point, reach)
            ascent.begin(climb, random)
            windows = ascent.windows(steps)
            window = left = next(windows)
            for step in range(steps + 1):
                if step:
                    ascent.move(climb, first=step == 1)
                if factor == 1:
                    undecided = see(climb)
                    if not len(undecided):
                        return
                    if len(undecided) < len(climb.rows):
                        climb.keep(undecided)
                left -= step > 0
                if left == 0:
                    ascent.check(climb, window)
                    window = left = next(windows)
            point = climb.top

    def _stages(self) -> list[tuple[float, int]]:
        """Factors of the radius, each with a number of steps."""
        if self.norm != Norm.L1:
            return [(1.0, self.steps)]
        part = math.ceil(0.3 * self.steps)
        return [(3.0, part), (2.0, part), (1.0, max(self.steps - 2 * part, 1))]
