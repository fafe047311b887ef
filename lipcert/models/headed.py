"""The form of most classifiers, logits = head(features(x)), and a check of their input."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lipcert.contracts import Norm


class Headed(nn.Module):
    """`features` (everything shared) and `head` (the last layer): losses may treat the two differently by name."""

    norm = Norm.L2

    def __init__(self, features: nn.Module, head: nn.Module):
        super().__init__()
        self.features, self.head = features, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def check_halvings(input_shape: Sequence[int], halvings: int, fewer: str = "channels") -> None:
    """Raises ValueError for images (C, H, W) of which so many halvings leave nothing."""
    if min(input_shape[1:]) < 2**halvings:
        raise ValueError(
            f"`model.channels` halves the image {halvings} times, which {tuple(input_shape)} does not survive; "
            f"give fewer {fewer}"
        )
