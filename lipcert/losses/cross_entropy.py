"""Cross-entropy, on clean images or on those of an adversary (Madry et al., ICLR 2018)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from lipcert.losses.accuracy import accuracy
from lipcert.losses.adversary import evaluating


class CrossEntropy(nn.Module):
    """The mean cross-entropy of the logits; with an `adversary` (an attack), on the images that it returns.

    `head_decay`/2·(‖W‖² + ‖b‖²) of the last layer is added, which under SGD is weight decay of that layer alone.
    """

    def __init__(self, *, num_classes: int, adversary: Callable[..., Tensor] | None = None, head_decay: float = 0.0):
        super().__init__()
        if not 0 <= head_decay < float("inf"):
            raise ValueError(f"`loss.head_decay` must be at least 0, got {head_decay}")
        self.adversary, self.head_decay = adversary, head_decay

    def prepare(self, model: Any, input_shape: tuple[int, ...]) -> None:
        if self.head_decay and not isinstance(getattr(model, "head", None), nn.Linear):
            name = type(model).__name__
            raise ValueError(f"`loss.head_decay` needs a model whose `head` is linear; take 0 for {name}")

    def forward(self, model: Any, x: Tensor, y: Tensor) -> Mapping[str, Tensor]:
        if self.adversary is not None:
            with evaluating(model) as answer:
                x = self.adversary(answer, x, y, None)
        logits = model(x).float()
        loss = F.cross_entropy(logits, y)
        if self.head_decay:
            loss = loss + self.head_decay / 2 * sum(p.square().sum() for p in model.head.parameters())
        return {"loss": loss, "accuracy": accuracy(logits, y)}
