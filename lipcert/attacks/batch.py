"""What the attacks compute with a batch of logits (B, K) or of images (B, C, H, W)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Answer = Callable[[Tensor], Tensor]  # from images (B, C, H, W) in [0, 1] to logits (B, K)

MARGIN = 1e-4  # a result's wrong logit leads by this, at logits of spread 10: found in float32, still wrong in float64


def rescaled(logits: Tensor, span: float, like: Tensor | None = None) -> Tensor:
    """`logits` (B, K), each row multiplied by a constant, so that predictions stay the same and no loss can saturate.

    In the same row of `like` (by default `logits` itself), that constant makes the largest logit exceed the third
    largest by `span`. It is not the smallest logit, because with 100 classes that one says nothing about the scale at
    which the leading logits differ. A logit of −∞ does not count.
    """
    top = (logits if like is None else like).detach().topk(min(3, logits.shape[1])).values
    spread = top[:, :1] - torch.where(top == -torch.inf, top[:, :1], top).amin(1, keepdim=True)
    return logits * (span / torch.where(spread > 0, spread, 1.0).clamp_min(1e-30))


def wrong_by(logits: Tensor, y: Tensor) -> Tensor:
    """The largest wrong logit minus the label's, (B,): above 0 where the label y (B,) is not the answer."""
    return logits.scatter(1, y[:, None], -torch.inf).amax(1) - logits.gather(1, y[:, None])[:, 0]


def lead_of(logits: Tensor, clean: Tensor, y: Tensor) -> Tensor:
    """`wrong_by`, at logits that are rescaled so that those of the clean image, `clean` (B, K), have a spread of 10.
    Logits of NaN are as wrong as can be.
    """
    return wrong_by(rescaled(logits, 10.0, like=clean), y).nan_to_num(torch.inf)


def direction(gradient: Tensor) -> Tensor:
    """`gradient` (B, ...) with the largest entry of each image scaled to 1 or −1, so that no norm of it underflows; a
    gradient of 0 is replaced by a random direction, and its entries of NaN by 0.
    """
    gradient = gradient.nan_to_num(0.0)
    size = per_image(gradient.abs().flatten(1).amax(1), gradient)
    return torch.where(size > 0, gradient / size, torch.randn_like(gradient))


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """`values` (B,), one for each image, in the shape (B, 1, ...) that broadcasts to `like` (B, ...)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def choose(rows: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The images of `a` where `rows` (B,) is true, those of `b` elsewhere."""
    return torch.where(per_image(rows, a), a, b)
