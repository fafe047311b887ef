"""The two arithmetics that an audit judges in, and the nearest images that either of them gives another label."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lipcert.attacks.batch import choose, per_image
from lipcert.attacks.judge import definite, distance
from lipcert.contracts import Norm
from lipcert.frozen import Network

STEPS = 14  # of a bisection: a distance is known to 2⁻¹⁴ of itself


class Nearest:
    """The nearest image to each of a batch that one arithmetic gives another label.

    network   in float64, or in float32
    x, y      the clean images (B, C, H, W) in float64, and their labels (B,)
    norm      of distances
    distance  (B,), float64, rounded up; inf where none was found
    image     (B, C, H, W), float64; in float32 its pixels are numbers of float32
    attack    what found it, and `factor` at which multiple of the radius; None: without a radius
    """

    def __init__(self, network: Network, x: Tensor, y: Tensor, norm: Norm):
        self.network, self.x, self.y, self.norm = network, x, y, norm
        self.dtype = network.dtype
        self.distance = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
        self.image = x.clone()
        self.attack: list[str] = [""] * len(x)
        self.factor: list[float | None] = [None] * len(x)

    def legal(self, candidate: Tensor, x: Tensor) -> Tensor:
        """Images in [0, 1] of this precision, in float64; the clean image's pixel where a candidate is NaN."""
        whole = torch.where(candidate.isnan(), x, candidate.double())
        return whole.to(self.dtype).clamp(0, 1).double()

    @torch.no_grad()
    def wrong(self, images: Tensor, rows: Tensor, one_by_one: bool = False) -> Tensor:
        """Whether images (B, ...) of the rows `rows` are given another label than theirs, (B,).

        one_by_one  each in a batch of its own: a batch of another size may add in another order
        """
        parts = images.to(self.dtype).split(1 if one_by_one else len(images) or 1)
        return ~definite(torch.cat([self.network(part) for part in parts]), self.y[rows])

    def offer(self, rows: Tensor, candidate: Tensor, names: Sequence[str], factors: Sequence[float | None]) -> Tensor:
        """Keeps what is nearer than what is known, after a bisection along the line to the clean image.

        rows     (R,), which images of the batch `candidate` (R, C, H, W) is of
        names    of the attacks, and `factors` (R,) at which multiple of each radius

        Returns whether each is given another label, (R,).
        """
        images = self.legal(candidate, self.x[rows])
        wrong = self.wrong(images, rows)
        far = distance(self.norm, images, self.x[rows])
        self.keep(rows, images, far.masked_fill(~wrong, torch.inf), names, factors)
        near = wrong.nonzero()[:, 0]
        if len(near):
            drawn = self.drawn(rows[near], images[near])
            far = distance(self.norm, drawn, self.x[rows[near]])
            self.keep(rows[near], drawn, far, [names[i] for i in near], [factors[i] for i in near])
        return wrong

    def drawn(self, rows: Tensor, images: Tensor) -> Tensor:
        """Images with another label, drawn towards the clean ones while the label stays another one."""
        x, best = self.x[rows], images
        low, high = torch.zeros_like(self.distance[rows]), torch.ones_like(self.distance[rows])
        for _ in range(STEPS):
            middle = (low + high) / 2
            between = self.legal(x + self.shorter(images - x, per_image(middle, x)), x)
            wrong = self.wrong(between, rows)
            low, high, best = (
                torch.where(wrong, low, middle),
                torch.where(wrong, middle, high),
                choose(wrong, between, best),
            )
        return best

    def shorter(self, change: Tensor, part: Tensor) -> Tensor:
        """A change (B, ...) whose norm is the fraction `part` (B, 1, ...) of what it was: cut in l∞, else scaled."""
        if self.norm is not Norm.LINF:
            return part * change
        most = part * per_image(change.abs().flatten(1).amax(1), change)
        return change.clamp(-most, most)

    def keep(
        self, rows: Tensor, images: Tensor, far: Tensor, names: Sequence[str], factors: Sequence[float | None]
    ) -> None:
        """Takes the images that are nearer than what is known."""
        for row in (far < self.distance[rows]).nonzero()[:, 0].tolist():
            at = int(rows[row])
            self.distance[at], self.image[at] = far[row], images[row]
            self.attack[at], self.factor[at] = names[row], factors[row]
