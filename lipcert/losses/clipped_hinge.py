"""A clipped hinge and a cross-entropy whose weight decreases (Zhang, Jiang, He & Wang, ICLR 2022)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipcert.losses.accuracy import accuracy


class ClippedHinge(nn.Module):
    """mean of max_i clip(r_i, 0, 1) + weight·CE(a·g, y), r_i = (g_i − g_t + 2e)/(2e) for i ≠ t, e = eps·`model.unit`.

    The hinge is 0 for an image whose margin proves it within `eps` (l_inf, in pixel units). It is 1 and has no gradient
    for an image that is far from its class, so that learning begins with the cross-entropy, whose `weight` a schedule
    lowers. `a` is a trainable number and no part of the classifier; it starts at 1, and its learning rate is
    `scale_rate` times that of the weights.
    """

    def __init__(self, *, num_classes: int, eps: float, weight: float = 0.05, scale_rate: float = 0.2):
        super().__init__()
        if not eps > 0 or weight < 0:
            raise ValueError(f"`loss.eps` must be positive and `loss.weight` at least 0, got {eps} and {weight}")
        self.eps, self.weight, self.scale_rate = eps, weight, scale_rate
        # Adam moves every parameter by about its learning rate, whatever the size of its gradient
        self.steps = nn.Parameter(torch.zeros(()))

    def forward(self, model: nn.Module, x: Tensor, y: Tensor) -> Mapping[str, Tensor]:
        logits = model(x).float()
        width = 2 * self.eps * getattr(model, "unit", 1.0)
        own = logits.gather(1, y[:, None])
        ratio = ((logits - own + width) / width).scatter(1, y[:, None], 0.0)
        hinge = ratio.clamp(0, 1).amax(1).mean()
        cross_entropy = F.cross_entropy((1 + self.scale_rate * self.steps) * logits, y)
        terms = {"hinge": hinge, "cross_entropy": cross_entropy, "accuracy": accuracy(logits, y)}
        return {"loss": hinge + self.weight * cross_entropy, **terms}
