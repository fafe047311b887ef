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


def _lengths(images: Tensor) -> Tensor:
    """The l2 norms (B, 1, ...) of a batch (B, ...), at least SHORTEST."""
    return per_image((images.flatten(1) ** 2).sum(1).sqrt().clamp_min(SHORTEST), images)
