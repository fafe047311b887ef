"""The judge of attacks: it makes any candidate legal, and classifies and measures it again in float64."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lipcert.attacks.batch import Answer, per_image
from lipcert.contracts import Attack, Norm


class Judged(NamedTuple):
    """The verdict on a batch of candidates.

    images      (B, C, H, W) in float64: the candidates, made legal.
    success     (B,): whether they are misclassified.
    distance    (B,) in float64 and pixel units: their distances from the clean images, 0 where the clean image itself
                is misclassified, inf where the attack failed.
    prediction  (B,): the classes that `images` are given.
    """

    images: Tensor
    success: Tensor
    distance: Tensor
    prediction: Tensor


def distance(norm: Norm, a: Tensor, b: Tensor) -> Tensor:
    """The distances (B,) between the images of two batches (B, ...) in float64, rounded up: at least the true ones."""
    difference = (a.double() - b.double()).flatten(1)
    order = {Norm.L1: 1.0, Norm.L2: 2.0, Norm.LINF: torch.inf}[norm]
    value = torch.linalg.vector_norm(difference, ord=order, dim=1)
    return value * (1 + (difference.shape[1] + 4) * 2.0**-52)


@torch.no_grad()
def judge(
    answer: Answer, x: Tensor, y: Tensor, candidate: Tensor, norm: Norm, eps: float | Tensor | None = None
) -> Judged:
    """Judges `candidate` (B, C, H, W) as an attack on the clean images `x` in [0, 1] with labels `y` (B,).

    `answer` maps float64 images to float64 logits (B, K). A NaN in `candidate` becomes the clean image's pixel, the
    rest is clipped to [0, 1]. If a radius `eps` is given, in pixel units, a scalar or (B,), the image is then moved
    towards x until its `distance` in `norm` is at most eps. Logits of NaN or +∞ count as a misclassification.

    Raises ValueError for logits below float64, for shapes that differ, for an `x` outside [0, 1], and for an eps < 0.
    """
    x = x.double()
    if candidate.shape != x.shape:
        raise ValueError(f"`candidate`: got shape {tuple(candidate.shape)}, the clean images have {tuple(x.shape)}")
    if not ((x >= 0) & (x <= 1)).all():
        raise ValueError("`x`: a clean image leaves [0, 1] or is NaN")
    clean_wrong = ~definite(_logits(answer, x), y)
    images = torch.where(candidate.isnan(), x, candidate.double()).clamp(0, 1)
    if eps is not None:
        images = _project(images, x, norm, torch.as_tensor(eps, dtype=x.dtype, device=x.device).expand(len(x)))
    images = torch.where(per_image(clean_wrong, x), x, images)
    logits = _logits(answer, images)
    success = ~definite(logits, y)
    return Judged(images, success, distance(norm, images, x).masked_fill(~success, torch.inf), logits.argmax(1))


def attempt(
    attack: Attack, answer: Answer, exact: Answer, x: Tensor, y: Tensor, eps: float | Tensor | None = None
) -> Judged:
    """The verdict on what `attack` finds on the images `x` in float64 that are classified rightly, at one radius or at
    one for each, (B,).

    `answer` is attacked, in float32; `exact`, the same classifier in float64, judges. See `judge`.
    """
    right = (~judge(exact, x, y, x, attack.norm).success).nonzero()[:, 0]
    candidate = x.clone()
    if len(right):
        radius = None if eps is None else torch.as_tensor(eps, dtype=x.dtype, device=x.device).expand(len(x))[right]
        candidate[right] = attack(answer, x[right].float(), y[right], radius).double()
    return judge(exact, x, y, candidate, attack.norm, eps)


def _logits(answer: Answer, x: Tensor) -> Tensor:
    """The logits (B, K) of the images `x`; ValueError below float64."""
    logits = answer(x)
    if logits.dtype != torch.float64:
        raise ValueError(f"`answer` gave logits in {logits.dtype}: judging takes a float64 network")
    return logits


def definite(logits: Tensor, y: Tensor) -> Tensor:
    """Whether each row of the logits (B, K) definitely predicts its label `y` (B,): that logit is the largest and
    finite, and no logit is NaN or +∞. (A logit of −∞ belongs to a class of which a nearest-neighbour classifier has no
    image.)
    """
    own = logits.gather(1, y[:, None])[:, 0]
    return (logits.argmax(1) == y) & own.isfinite() & (logits < torch.inf).all(1)


def _project(images: Tensor, x: Tensor, norm: Norm, eps: Tensor) -> Tensor:
    """`images` moved towards `x` until `distance` is at most `eps` (B,): scaled in l1 and l2, clipped in linf."""
    if not (eps >= 0).all():
        raise ValueError(f"`eps`: got {eps.min().item()}, a radius is at least 0")
    step = images - x
    for exponent in range(-52, 0, 4):  # x + step rounds, so the aim may have to lie a little inside the ball
        outside = distance(norm, images, x) > eps
        if not outside.any():
            return images
        aim = per_image(eps * (1 - 2.0**exponent), x)
        if norm == Norm.LINF:
            shorter = step.clamp(-aim, aim)
        else:
            shorter = step * (aim / per_image(distance(norm, x + step, x), x).clamp_min(1e-300)).clamp_max(1)
        images = torch.where(per_image(outside, x), (x + shorter).clamp(0, 1), images)
    return torch.where(per_image(distance(norm, images, x) > eps, x), x, images)  # the ball is below x's precision
