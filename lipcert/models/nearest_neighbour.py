"""1-nearest-neighbour, a certified classifier that needs no training: the baseline of every table."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lipcert.kernels.neighbours import class_distances


class NearestNeighbour(nn.Module):
    """y_k = −(l2 distance to the nearest training image of class k). Each logit is 1-Lipschitz, so the radius is gap/2.

    The training images are stored as bytes. (B, C, H, W) to (B, K), with −inf for a class without images.
    """

    norm = "l2"

    def __init__(self, *, input_shape: Sequence[int], num_classes: int):
        super().__init__()
        self.shape, self.num_classes = tuple(input_shape), num_classes
        self.images: Tensor
        self.labels: Tensor
        self.register_buffer("images", torch.zeros(0, *self.shape, dtype=torch.uint8))
        self.register_buffer("labels", torch.zeros(0, dtype=torch.int64))

    def memorise(self, images: Tensor, labels: Tensor) -> None:
        """Stores the training set: images (N, C, H, W) in uint8, labels (N,)."""
        self.images, self.labels = images.clone(), labels.clone()

    def _load_from_state_dict(self, state, prefix, *args) -> None:
        self.memorise(state[prefix + "images"], state[prefix + "labels"])
        super()._load_from_state_dict(state, prefix, *args)

    def forward(self, x: Tensor) -> Tensor:
        return class_distances(x, self.images, self.labels, self.num_classes)
