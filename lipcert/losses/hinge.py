"""The multi-class hinge loss of l_inf-distance nets (Zhang et al., ICML 2021, with the mean of their code)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from lipcert.losses.accuracy import accuracy


class Hinge(nn.Module):
    """With h_i = max(0, θ − (g_t − g_i)) for i ≠ t and h_t = 0:
    mix·mean(max_i h_i) + (1 − mix)·mean(h_i over the batch and all K classes, the label's included).

    θ = 2·eps·`model.unit`, so that an image whose hinge is 0 is proved within `eps` (l_inf, in pixel units).
    """

    def __init__(self, *, num_classes: int, eps: float, mix: float = 0.75):
        super().__init__()
        if eps < 0 or not 0 <= mix <= 1:
            raise ValueError(f"`loss.eps` must be at least 0 and `loss.mix` in [0, 1], got {eps} and {mix}")
        self.eps, self.mix = eps, mix

    def forward(self, model: nn.Module, x: Tensor, y: Tensor) -> Mapping[str, Tensor]:
        logits = model(x).float()
        threshold = 2 * self.eps * getattr(model, "unit", 1.0)
        own = logits.gather(1, y[:, None])
        hinge = (threshold - (own - logits)).clamp_min(0).scatter(1, y[:, None], 0.0)
        worst, mean = hinge.amax(1).mean(), hinge.mean()
        loss = self.mix * worst + (1 - self.mix) * mean
        return {"loss": loss, "worst": worst, "mean": mean, "accuracy": accuracy(logits, y)}
