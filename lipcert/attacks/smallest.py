"""The smallest distance at which an attack with a given radius succeeds, by a search over the radius of each image."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lipcert.attacks.batch import MARGIN, Answer, choose, rescaled, wrong_by
from lipcert.attacks.judge import distance
from lipcert.attacks.settings import check, label_of, refuse_radius, setting
from lipcert.contracts import Attack, Norm


@dataclass(kw_only=True)
class SmallestDistance:
    """`attack(answer, x, y)` returns the closest image, in `norm` (l2 or linf), that the attack `inner` found at any
    of the radii tried, or x itself if it found none.

    This is the search of Foolbox 1 (Rauber, Brendel & Bethge, 2017), which the papers of its time report. The radii are
    `start`·`growth`^k, or `start`·(k + 1) if `growth` is None, for k = 0, 1, … below `tries`, up to the first that
    succeeds. Then `bisections` steps bisect between that radius and 0, or the last radius that failed if `growth` is
    None. Each image has its own radii, and `inner` is called only with the images whose search goes on. `start` is a
    change of every pixel: if the norm of `inner` is l2, it is multiplied by √n for images of n numbers.

    An image counts as found if it is wrong by `MARGIN` at logits that are rescaled to a spread of 10 on the clean
    image, so that it is wrong in float64 too. The norm of `inner` is that of its steps and of its ball (linf: the steps
    are signs of gradients); it may differ from `norm`.
    """

    name: str
    inner: Attack
    norm: Norm = Norm.L2
    start: float = setting(0.3, "-start{:g}")
    growth: float | None = setting(1.5, "-growth{:g}", none="-even")
    tries: int = setting(20, "-tries{}")
    bisections: int = setting(20, "-bisections{}")
    batch_size: int = 500
    images: int | None = None
    eps: Sequence[float] | None = field(default=None, init=False)
    label: str = field(init=False)

    def __post_init__(self) -> None:
        check(self, counts=("tries",), positive=("start",))
        if not isinstance(self.bisections, int) or self.bisections < 0:
            raise ValueError(f"`attack.bisections`: got {self.bisections!r}, must be a whole number of at least 0")
        if self.growth is not None and not 1 < self.growth < float("inf"):
            raise ValueError(f"`attack.growth`: got {self.growth}, must be above 1, or null for even steps")
        if not re.fullmatch(r"[a-z0-9_]+", self.name) or set(Norm) & set(self.name.split("_")):
            raise ValueError(f"`attack.name`: got {self.name!r}, take letters, digits and _ that name no norm")
        if self.inner.eps is None:
            raise ValueError(f"`attack.inner`: {self.inner.label} takes no radius; take one that does, such as pgd_l2")
        self.norm = Norm(self.norm)
        signs = "-sign" if self.inner.norm == Norm.LINF else ""
        settings_of_inner = "".join(self.inner.label.partition("-")[1:])
        self.label = label_of(self, f"{self.name}_{self.norm}{signs}{settings_of_inner}")

    @torch.no_grad()
    def __call__(self, answer: Answer, x: Tensor, y: Tensor, eps: Tensor | None = None) -> Tensor:
        refuse_radius(self.label, eps)
        x = x.detach()
        clean = answer(x)
        best, smallest = x.clone(), torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
        unit = x[0].numel() ** 0.5 if len(x) and self.inner.norm == Norm.L2 else 1.0
        low, high = x.new_zeros(len(x)), x.new_full((len(x),), torch.inf)

        def attempt(rows: Tensor, radius: Tensor) -> Tensor:
            """Whether the attack succeeds on each of the images `rows` at its own `radius`. Keeps the closest."""
            candidate = self.inner(answer, x[rows], y[rows], radius)
            fell = wrong_by(rescaled(answer(candidate), 10.0, like=clean[rows]), y[rows]) >= MARGIN
            found = distance(self.norm, candidate, x[rows])
            closer = fell & (found < smallest[rows])
            smallest[rows] = torch.where(closer, found, smallest[rows])
            best[rows] = choose(closer, candidate, best[rows])
            return fell

        rows = (wrong_by(rescaled(clean, 10.0), y) < MARGIN).nonzero()[:, 0]
        for k in range(self.tries):
            if not len(rows):
                break
            radius = unit * (self.start * (k + 1) if self.growth is None else self.start * self.growth**k)
            fell = attempt(rows, x.new_full((len(rows),), radius))
            high[rows[fell]] = radius
            rows = rows[~fell]
            if self.growth is None:
                low[rows] = radius
        rows = high.isfinite().nonzero()[:, 0]
        for _ in range(self.bisections if len(rows) else 0):
            middle = (low[rows] + high[rows]) / 2
            fell = attempt(rows, middle)
            high[rows[fell]], low[rows[~fell]] = middle[fell], middle[~fell]
        return best
