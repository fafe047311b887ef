"""What attacks make large: of logits (B, K), labels (B,) and target classes (B,) or None, a number for each image.

Above 0 means misclassified, except for `cross_entropy`. Give them `rescaled` logits, so that no loss can saturate.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from lipcert.attacks.batch import wrong_by

Objective = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def cross_entropy(logits: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
    """The cross-entropy of the label; it has no target."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
    """The target's logit, or else the largest wrong one, minus the label's."""
    if target is None:
        return wrong_by(logits, y)
    return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None]))[:, 0]


def logits_ratio(logits: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
    """`margin`, divided by the distance from the largest logit to the third largest, or with a target to the mean of
    the third and the fourth (the "difference of logits ratio" of Croce & Hein, ICML 2020). Of two logits it is
    `margin` itself."""
    if logits.shape[1] < 3:
        return margin(logits, y, target)
    top = logits.topk(min(3 if target is None else 4, logits.shape[1])).values
    return margin(logits, y, target) / (top[:, 0] - top[:, 2:].mean(1)).clamp_min(1e-12)


OBJECTIVES: dict[str, Objective] = {"ce": cross_entropy, "dlr": logits_ratio, "margin": margin}
