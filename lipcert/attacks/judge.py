"""Nobody trusts an attack: whatever it returns is made legal, classified again and measured again, in float64."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lipcert.contracts import Norm


class Judged(NamedTuple):
    """`images` (B, C, H, W) are legal, in float64; `success` (B,) says they are misclassified.

    `distance` (B,) from the clean images, in the norm asked for: 0 where those are misclassified themselves, inf where
    the attack failed.
    """

    images: Tensor
    success: Tensor
    distance: Tensor


def distance(norm: Norm, a: Tensor, b: Tensor) -> Tensor:
    """The distances (B,) of two batches in float64, rounded up: the true ones are no larger."""
    difference = (a.double() - b.double()).flatten(1)
    value = torch.linalg.vector_norm(difference, ord=2 if norm == Norm.L2 else torch.inf, dim=1)
    return value * (1 + (difference.shape[1] + 4) * 2.0**-52)


@torch.no_grad()
def judge(
    model: nn.Module, x: Tensor, y: Tensor, candidate: Tensor, norm: Norm, eps: float | Tensor | None = None
) -> Judged:
    """What `candidate` is worth as an attack on the clean images `x` in [0, 1] with labels `y`.

    NaNs become the clean image's pixels, the rest is clipped to [0, 1] and, where `eps` (B,) or a scalar is given,
    moved towards x until `distance` is at most eps. A logit that is not finite counts as misclassified. Raises
    ValueError for a model in training mode or below float64, a shape that differs, an `x` outside [0, 1], an eps < 0.
    """
    x = x.double()
    if candidate.shape != x.shape:
        raise ValueError(f"`candidate`: got shape {tuple(candidate.shape)}, the clean images have {tuple(x.shape)}")
    if not ((x >= 0) & (x <= 1)).all():
        raise ValueError("`x`: a clean image leaves [0, 1] or is NaN")
    clean_wrong = _misclassified(model, x, y)
    images = torch.where(candidate.isnan(), x, candidate.double()).clamp(0, 1)
    if eps is not None:
        images = _project(images, x, norm, torch.as_tensor(eps, dtype=x.dtype, device=x.device).expand(len(x)))
    images = torch.where(_rows(clean_wrong, x), x, images)
    success = _misclassified(model, images, y)
    return Judged(images, success, distance(norm, images, x).masked_fill(~success, torch.inf))


def _rows(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))


def _misclassified(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    if any(module.training for module in model.modules()):
        raise ValueError("`model` is in training mode: call `model.eval()` before judging")
    logits = model(x)
    if logits.dtype != torch.float64:
        raise ValueError(f"`model` answered in {logits.dtype}: judging takes a float64 model")
    return (logits.argmax(1) != y) | ~logits.isfinite().all(1)


def _project(images: Tensor, x: Tensor, norm: Norm, eps: Tensor) -> Tensor:
    if not (eps >= 0).all():
        raise ValueError(f"`eps`: got {eps.min().item()}, a radius is at least 0")
    step = images - x
    for exponent in range(-52, 0, 4):  # the rounding of x + step may need the aim a little inside the ball
        outside = distance(norm, images, x) > eps
        if not outside.any():
            return images
        aim = _rows(eps * (1 - 2.0**exponent), x)
        if norm == Norm.L2:
            shorter = step * (aim / _rows(distance(norm, x + step, x), x).clamp_min(1e-300)).clamp_max(1)
        else:
            shorter = step.clamp(-aim, aim)
        images = torch.where(_rows(outside, x), (x + shorter).clamp(0, 1), images)
    return torch.where(_rows(distance(norm, images, x) > eps, x), x, images)  # a ball below x's own precision
