"""The Square attack (Andriushchenko, Croce, Flammarion & Hein, ECCV 2020): random search by squares, no gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lipcert.attacks.balls import project_l1
from lipcert.attacks.batch import MARGIN, Answer, choose, lead_of, per_image
from lipcert.attacks.settings import check, label_of, radii, radius_of, seeded, setting
from lipcert.contracts import Norm

FRACTIONS = (0.0010, 0.0050, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)  # of the steps, after which squares are half as large


@dataclass(kw_only=True)
class Square:
    """`attack(answer, x, y, eps)` returns, of the images within eps that it tried, the one that is wrong by most.

    Each of `steps` steps changes a square somewhere, and is kept where the largest wrong logit gains on the label's. In
    l_inf the square moves as far as it may, up or down. In l2 and l1 it gets the shape of a hill beside a valley, and
    what another square of the same size had used of the radius. At first a square has the fraction `share` of the
    pixels. All images of a batch share the places of their squares. Images that are wrong by `MARGIN` are left out from
    then on. `eps` None stands for the first radius of `self.eps`.

    Raises the errors of `ProjectedGradient`.
    """

    norm: Norm
    eps: Sequence[float] | None
    steps: int = 5000
    share: float = setting(0.8, "-share{:g}")
    restarts: int = setting(1, "-r{}")
    batch_size: int = 500
    images: int | None = None
    seed: int | None = None  # None: the global random stream
    label: str = field(init=False)

    def __post_init__(self) -> None:
        check(self, counts=("steps", "restarts"), positive=("share",), norms=tuple(Norm))
        if self.share > 1:
            raise ValueError(f"`attack.share`: got {self.share}, must be at most 1")
        self.norm, self.eps = Norm(self.norm), radii(self.eps or [])
        self.label = label_of(self, f"square_{self.norm}-{self.steps}")

    @torch.no_grad()
    def __call__(self, answer: Answer, x: Tensor, y: Tensor, eps: Tensor | None = None) -> Tensor:
        x = x.detach()
        radius, clean = radius_of(self, eps, x), answer(x)
        best, lead = x.clone(), lead_of(clean, clean, y)
        with seeded(self.seed, x.device):
            for _ in range(self.restarts):
                rows = (lead < MARGIN).nonzero()[:, 0]
                if not len(rows):
                    break
                images, reached = self._search(answer, x[rows], y[rows], clean[rows], radius[rows])
                better = reached > lead[rows]
                best[rows], lead[rows] = choose(better, images, best[rows]), reached.maximum(lead[rows])
        return best

    def _search(self, answer: Answer, x: Tensor, y: Tensor, clean: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        """The best images of one run, (B, C, H, W), and by how much they are wrong."""
        best = self._start(x, radius)
        lead = lead_of(answer(best), clean, y)
        for step in range(self.steps):
            rows = (lead < MARGIN).nonzero()[:, 0]
            if not len(rows):
                break
            side = self._side(x, step)
            tried = self._change(best[rows], x[rows], radius[rows], side)
            reached = lead_of(answer(tried), clean[rows], y[rows])
            better = reached > lead[rows]
            best[rows], lead[rows] = choose(better, tried, best[rows]), reached.maximum(lead[rows])
        return best, lead

    def _side(self, x: Tensor, step: int) -> int:
        """The side of the squares in a step, in pixels."""
        halvings = sum(step > fraction * self.steps for fraction in FRACTIONS)
        side = round(math.sqrt(self.share / 2**halvings * x.shape[2] * x.shape[3]))
        side = max(side, 1) if self.norm == Norm.LINF else max(side, 3) | 1
        return min(side, *x.shape[2:])

    def _inside(self, offset: Tensor, x: Tensor, radius: Tensor) -> Tensor:
        """The images at `offset` from x, brought onto the ball in l2, into it in l1, and into the box."""
        if self.norm == Norm.L1:
            return x + project_l1(offset, radius, x)
        return (x + offset * (radius / per_image(offset.flatten(1).norm(dim=1), x).clamp_min(1e-30))).clamp(0, 1)

    def _start(self, x: Tensor, radius: Tensor) -> Tensor:
        """Vertical stripes in l_inf, else five by five hills and valleys."""
        images, channels, height, width = x.shape
        if self.norm == Norm.LINF:
            return (x + radius * _signs(x.new_empty(images, channels, 1, width))).clamp(0, 1)
        offset, side = torch.zeros_like(x), max(min(height, width) // 5, 1)
        for top in range(0, height - side + 1, side):
            for left in range(0, width - side + 1, side):
                signs = _signs(x.new_empty(images, channels, 1, 1))
                offset[:, :, top : top + side, left : left + side] = signs * self._hills(side, x)
        return self._inside(offset, x, radius)

    def _change(self, images: Tensor, x: Tensor, radius: Tensor, side: int) -> Tensor:
        """`images` with one square changed, all in the same place."""
        window = _window(x, side)
        signs = _signs(x.new_empty(*x.shape[:2], 1, 1))
        if self.norm == Norm.LINF:
            changed = images.clone()
            changed[window] += 2 * radius * signs
            return torch.minimum(torch.maximum(changed, x - radius), x + radius).clamp(0, 1)
        offset, other = images - x, _window(x, side)
        order = 1 if self.norm == Norm.L1 else 2
        used = torch.zeros_like(x, dtype=torch.bool)
        used[window] = used[other] = True
        free = (radius**order - _power(offset, order).sum(1, keepdim=True)).clamp_min(0) / x.shape[1]
        share = (free + _power(offset * used, order)) ** (1 / order)  # what the square may use, in each channel
        old = offset[window] / (_power(offset[window], order) ** (1 / order)).clamp_min(1e-12)
        new = signs * self._hills(side, x) + old
        offset[other] = 0
        offset[window] = new * (share / (_power(new, order) ** (1 / order)).clamp_min(1e-12))
        return self._inside(offset, x, radius)

    def _hills(self, side: int, x: Tensor) -> Tensor:
        """A hill beside a valley, upright or lying, with a norm of 1; (side, side)."""
        half = side // 2
        power = 4 if self.norm == Norm.L1 else 2
        whole = torch.cat([_hill(half, side, power), -_hill(side - half, side, power)]).to(x)
        whole = whole / torch.linalg.vector_norm(whole, 1 if self.norm == Norm.L1 else 2)
        return whole.T if torch.rand(()) > 0.5 else whole


def _window(x: Tensor, side: int) -> tuple[slice, slice, slice, slice]:
    """A random square of all images and channels."""
    top, left = (int(torch.randint(size - side + 1, ())) for size in x.shape[2:])
    return slice(None), slice(None), slice(top, top + side), slice(left, left + side)


def _signs(like: Tensor) -> Tensor:
    """Random signs in the shape of `like`."""
    return torch.randint_like(like, 2) * 2 - 1


def _power(square: Tensor, order: int) -> Tensor:
    """The sums of the powers of |entries| in each image and channel, (B, C, 1, 1)."""
    return square.abs().pow(order).sum((2, 3), keepdim=True)


def _hill(height: int, width: int, power: int) -> Tensor:
    """Nested rectangles around the middle, the k-th of height 1/k^power, (height, width)."""
    hill = torch.zeros(height, width)
    middle = (height // 2, width // 2)
    for k in range(max(middle) + 1):
        rows = slice(max(middle[0] - k, 0), middle[0] + k + 1)
        hill[rows, max(middle[1] - k, 0) : middle[1] + k + 1] += 1 / (k + 1) ** power
    return hill / max(float(torch.linalg.vector_norm(hill, 1 if power == 4 else 2)), 1e-12)
