"""The unit balls of the norms in which gradient attacks take their steps, for each image of a batch (B, ...)."""

from __future__ import annotations

import torch
from torch import Tensor

from lipcert.attacks.batch import per_image
from lipcert.contracts import Norm

SHORTEST = 1e-12  # no vector is divided by a length below this


class L2Ball:
    """The unit ball of l2."""

    def steepest(self, gradient: Tensor) -> Tensor:
        """The point of the ball in which a linear function with that gradient is largest."""
        return gradient * (1 / _lengths(gradient))

    def project(self, offset: Tensor) -> Tensor:
        return offset * (1 / _lengths(offset)).clamp(max=1)

    def random(self, like: Tensor) -> Tensor:
        """Uniform in the ball: n of the n + 2 coordinates of a point on a sphere (Voelker et al., 2017)."""
        flat = like.flatten(1)
        normal = torch.randn(len(flat), flat.shape[1] + 2, dtype=like.dtype, device=like.device)
        return (normal / (normal**2).sum(1, keepdim=True).sqrt())[:, :-2].reshape(like.shape)


class LinfBall:
    """The unit ball of l_inf."""

    def steepest(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def project(self, offset: Tensor) -> Tensor:
        return offset.clamp(-1, 1)

    def random(self, like: Tensor) -> Tensor:
        return torch.rand(like.shape, dtype=like.dtype, device=like.device) * 2 - 1


BALLS: dict[Norm, L2Ball | LinfBall] = {Norm.L2: L2Ball(), Norm.LINF: LinfBall()}


def inside(norm: Norm, images: Tensor, x: Tensor, radius: Tensor) -> Tensor:
    """`images` (B, ...) brought into the box [0, 1] and, up to rounding, within `radius` (B, 1, ...) of `x` in `norm`.

    In l1 it is the nearest such point. In l2 and l_inf the image is first brought into the ball, and then into the box.
    """
    if norm == Norm.L1:
        return (x + project_l1(images - x, radius, x)).clamp(0, 1)
    return (x + radius * BALLS[norm].project((images - x) / radius)).clamp(0, 1)


def project_l1(offset: Tensor, radius: Tensor, x: Tensor) -> Tensor:
    """The nearest point to `offset` (B, ...) that has an l1 norm of at most `radius` (B, 1, ...) and keeps `x` + offset
    in [0, 1] (Croce & Hein, ICML 2021).

    It is sign(o)·min(max(|o| − λ, 0), room) with the smallest λ ≥ 0 that makes it short enough; its norm falls
    piecewise linearly with λ, and bends where an entry leaves the side of the box, at |o| − room, or becomes 0, at |o|.
    """
    size = offset.abs().flatten(1).double()
    room = torch.where(offset > 0, 1 - x, x).flatten(1).double()
    bends, order = torch.cat([size, size - room], 1).sort(1, descending=True)
    sides = torch.where(order < size.shape[1], 1.0, -1.0).double()  # an entry that moves with λ begins or ends here
    total, moving = (sides * bends).cumsum(1), sides.cumsum(1)  # for λ below bend k: the norm is total − λ·moving
    limit = radius.flatten(1).double()
    last = ((total - bends * moving <= limit).sum(1, keepdim=True) - 1).clamp_min(0)
    slope = moving.gather(1, last)
    level = ((total.gather(1, last) - limit) / torch.where(slope > 0, slope, 1.0)).clamp_min(0)
    shorter = torch.minimum((size - level).clamp_min(0), room)
    return offset.sign() * shorter.to(offset.dtype).view_as(offset)


def _lengths(images: Tensor) -> Tensor:
    """The l2 norms (B, 1, ...) of a batch (B, ...), at least SHORTEST."""
    return per_image((images.flatten(1) ** 2).sum(1).sqrt().clamp_min(SHORTEST), images)
