"""The shape that most classifiers have: logits = head(features(x))."""

from __future__ import annotations

from torch import Tensor, nn

from lipcert.contracts import Norm


class Headed(nn.Module):
    """`features` (everything shared) and `head` (the last layer), named so for the last-layer certificate."""

    norm = Norm.L2
    norms = (Norm.L2, Norm.LINF)  # it only passes on

    def __init__(self, features: nn.Module, head: nn.Module):
        super().__init__()
        self.features, self.head = features, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    def bound(self, signal, walk, name: str):
        prefix = f"{name}." if name else ""
        return walk(self.head, walk(self.features, signal, f"{prefix}features"), f"{prefix}head")
