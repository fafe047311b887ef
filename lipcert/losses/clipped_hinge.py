"""Cross-entropy that gives way to a clipped hinge (Zhang, Jiang, He & Wang, ICLR 2022)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ClippedHinge(nn.Module):
    """mean of max_i clip(r_i, 0, 1) + weight·CE(a·g, y), r_i = (g_i − g_t + 2e)/(2e) for i ≠ t, e = eps·`model.unit`.

    The clipped part is 0 for an image proved within `eps` (l_inf, pixels) by its margin, 1 and without gradient for one
    that is hopelessly wrong; so learning begins with the cross-entropy, and a schedule lowers its `weight`. `a`, one
    trainable number and no part of the classifier, starts at 1 and moves `scale_rate` times as fast as the weights.
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
        return {"loss": hinge + self.weight * cross_entropy, "hinge": hinge, "cross_entropy": cross_entropy}
