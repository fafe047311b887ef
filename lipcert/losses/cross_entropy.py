"""Cross-entropy, on clean images or on those of an adversary (Madry et al., ICLR 2018)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn
from torch.nn import functional as F


class CrossEntropy(nn.Module):
    """Mean cross-entropy of the logits; with an `adversary` (an attack), of the images that it distorts."""

    def __init__(self, *, num_classes: int, adversary: Callable[..., Tensor] | None = None):
        super().__init__()
        self.adversary = adversary

    def forward(self, model: nn.Module, x: Tensor, y: Tensor) -> Mapping[str, Tensor]:
        if self.adversary is not None:
            x = self.adversary(model, x, y, None)
        return {"loss": F.cross_entropy(model(x).float(), y)}
