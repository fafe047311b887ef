"""The shape that most classifiers have: logits = head(features(x))."""

from __future__ import annotations

from torch import Tensor, nn

from lipcert.contracts import Norm


class Headed(nn.Module):
    """`features` (everything shared) and `head` (the last layer), by these names for whoever trains the two apart."""

    norm = Norm.L2

    def __init__(self, features: nn.Module, head: nn.Module):
        super().__init__()
        self.features, self.head = features, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))
