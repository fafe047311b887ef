"""The suite on a block of images: just inside their radii, and outside only as far as that still teaches something."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lipcert.analyses.audit import near_ties
from lipcert.analyses.audit.judging import Nearest
from lipcert.analyses.audit.nearest_images import NearestImages
from lipcert.analyses.audit.suite import Suite, Trial
from lipcert.attacks.settings import seeded
from lipcert.contracts import Norm
from lipcert.frozen import Network

ITSELF = "the image itself, rounded to float32"
MOVING = "towards the nearest images of other classes"


class Networks(NamedTuple):
    """One frozen network in both precisions, on one device; `single` None where float32 can't hold it."""

    double: Network
    single: Network | None

    @classmethod
    def of(cls, network: Network, device: str) -> Networks:
        try:
            single = network.to(dtype=torch.float32, device=device)
        except ValueError:  # a constant that float32 can't hold
            single = None
        return cls(network.on(device), single)


class Search:
    """The nearest images with another label to a block of images, each with its own radius.

    x, y      (B, C, H, W) in float64, and labels (B,)
    radius    (B,), float64; and `radius_float32`, at most that, 0 where there is none
    seed      of the block
    tell      is told which attack comes next
    counts    {attack: {tried: images, found: images given another label}}
    pairs     (B,): how many attacks each image was given to
    """

    def __init__(
        self,
        networks: Networks,
        norm: Norm,
        x: Tensor,
        y: Tensor,
        radius: Tensor,
        radius_float32: Tensor,
        *,
        seed: int,
        tell: Callable[[str], None] = lambda name: None,
    ):
        self.networks, self.norm, self.x, self.y = networks, norm, x, y
        self.radius, self.radius_float32, self.seed, self.tell = radius, radius_float32, seed, tell
        self.double = Nearest(networks.double, x, y, norm)
        self.single = Nearest(networks.single, x, y, norm) if networks.single else None
        self.counts: dict[str, dict[str, int]] = {}
        self.pairs = torch.zeros(len(x), dtype=torch.long)
        self.calls = 0

    def run(self, suite: Suite, factors: Sequence[float], near: NearestImages | None) -> None:
        """The whole search: `factors` up to 1 are inside of the radii, those above are outside."""
        every = torch.arange(len(self.x), device=self.x.device)
        self.offer(every, self.x, ITSELF, [None] * len(every))
        if near:
            for candidate in near.candidates(self.x, self.y, self.norm):
                self.count(every, MOVING, self.offer(every, candidate, MOVING, [None] * len(every)))
        for trial in suite.smallest:
            self.attack(trial, every)
        self.outside(suite.strong, sorted(factor for factor in factors if factor > 1))
        for trial in suite.nearer:
            self.attack(trial, self.double.distance.isfinite())
        for factor in (factor for factor in factors if factor <= 1):
            for trial in suite.whole:
                self.attack(trial, self.whole(), factor)
                if trial.single and self.single:
                    smaller = self.whole() & (self.radius_float32 < factor * self.radius) & (self.radius_float32 > 0)
                    self.attack(trial, smaller, factor, self.radius_float32)
        if self.single:
            generator = torch.Generator(self.x.device).manual_seed(self.seed)
            near_ties.search(self.single, every, generator)
            self.count(every, near_ties.NAME, self.single.distance.isfinite())

    def whole(self) -> Tensor:
        """Which images have no other label within a radius so far, (B,); a `radius_float32` of 0 claims nothing."""
        unbroken = self.double.distance > self.radius
        if self.single is None:
            return unbroken
        return unbroken & ((self.single.distance > self.radius_float32) | (self.radius_float32 == 0))

    def outside(self, strong: Sequence[Trial], factors: list[float]) -> None:
        """Bisects the factors of each image: the largest one first where no distance is known, then always the middle
        one of those between the last that failed and the best distance."""
        failed = [0.0] * len(self.x)
        while True:
            chosen = {}
            for row, (low, best) in enumerate(zip(failed, (self.double.distance / self.radius).tolist(), strict=True)):
                left = [factor for factor in factors if low < factor < best]
                if left and self.radius[row] > 0:
                    chosen[row] = left[-1] if best == torch.inf else left[(len(left) - 1) // 2]
            if not chosen:
                return
            for trial in strong:
                due = [
                    row for row, factor in chosen.items() if not self.double.distance[row] <= factor * self.radius[row]
                ]
                multiples = self.radius.new_tensor([chosen.get(row, 0.0) for row in range(len(self.x))])
                self.attack(trial, torch.tensor(due, dtype=torch.long, device=self.x.device), multiples)
            for row, factor in chosen.items():
                if not self.double.distance[row] <= factor * self.radius[row]:
                    failed[row] = factor

    def attack(
        self, trial: Trial, rows: Tensor, factor: float | Tensor | None = None, radius: Tensor | None = None
    ) -> None:
        """One attack on some images, at a multiple of their radii (None: it looks for the smallest distance).

        rows    their numbers, or a mask of all
        factor  one, or one for each image of the batch
        radius  (B,); None: that of the exact network
        """
        rows = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows
        network = self.networks.single if trial.single else self.networks.double
        if not len(rows) or network is None:
            return
        self.tell(trial.name)
        self.calls += 1
        x, eps, factors = self.x[rows].to(network.dtype), None, [None] * len(rows)
        if factor is not None:
            multiple = torch.as_tensor(factor).expand_as(self.radius)[rows]
            eps = (multiple * (self.radius if radius is None else radius)[rows]).to(network.dtype)
            factors = multiple.tolist()
        start = {"start": self.double.image[rows].to(network.dtype)} if trial.starts else {}
        with seeded(self.seed * 1_000 + self.calls, self.x.device):
            found = trial.attack(network, x, self.y[rows], eps, **start)
        self.count(rows, trial.name, self.offer(rows, found.detach().double(), trial.name, factors))

    def offer(self, rows: Tensor, images: Tensor, name: str, factors: Sequence[float | None]) -> Tensor:
        """Gives candidates to both judges; returns which are given another label by one of them, (R,)."""
        names = [name] * len(rows)
        wrong = self.double.offer(rows, images, names, factors)
        return wrong if self.single is None else wrong | self.single.offer(rows, images, names, factors)

    def count(self, rows: Tensor, name: str, wrong: Tensor) -> None:
        mine = self.counts.setdefault(name, {"tried": 0, "found": 0})
        mine["tried"] += len(rows)
        mine["found"] += int(wrong.sum())
        self.pairs.index_add_(0, rows.cpu(), torch.ones(len(rows), dtype=torch.long))
