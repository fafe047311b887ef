"""Radius = min_i (y_t − y_i) / M_ti, where M_ti bounds how fast y_t − y_i moves: what all margin certificates share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lipcert.contracts import Verdict


def pairwise_judge(
    model: Callable[[Tensor], Tensor], pairs: Tensor, error: float
) -> Callable[[Tensor, Tensor], Verdict]:
    """Verdicts from a (K, K) matrix of pairwise Lipschitz constants and the l2 rounding error of the logits.

    Each logit is off by at most `error`, so a margin shrinks by 2·error; the two operations on it round down. An image
    whose prediction is wrong, or whose logits are not finite, has radius 0.
    """

    def judge(x: Tensor, labels: Tensor) -> Verdict:
        logits = model(x)
        own = logits.gather(1, labels[:, None])
        is_label = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, labels[:, None], True)
        margins = own - logits
        margin = margins.masked_fill(is_label, torch.inf).amin(1)
        slopes = pairs.to(logits)[labels]
        proven = (margins - 2 * error) * (1 - 8 * torch.finfo(logits.dtype).eps)
        ratio = torch.where(
            slopes > 0, proven / slopes, torch.where((slopes == 0) & (proven > 0), torch.inf, -torch.inf)
        )
        radius = ratio.masked_fill(is_label, torch.inf).amin(1).clamp_min(0).nan_to_num(0.0, posinf=torch.inf)
        correct = (logits.argmax(1) == labels) & logits.isfinite().all(1)
        return Verdict(logits.argmax(1), margin, torch.where(correct & (margin > 0), radius, 0.0))

    return judge
