"""1-nearest-neighbour, the certified classifier that needs no training: the baseline that every table carries."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lipcert.contracts import Signal


class NearestNeighbour(nn.Module):
    """y_k = −(l2 distance to the nearest training image of class k): each logit is 1-Lipschitz, so radius = gap/2.

    Keeps its training images as bytes; (B, C, H, W) to (B, K), −inf for a class without images.
    """

    norm = "l2"
    chunk = 4096  # training images compared at once

    def __init__(self, *, input_shape: Sequence[int], num_classes: int):
        super().__init__()
        self.shape, self.num_classes = tuple(input_shape), num_classes
        self.images: Tensor
        self.labels: Tensor
        self.register_buffer("images", torch.zeros(0, *self.shape, dtype=torch.uint8))
        self.register_buffer("labels", torch.zeros(0, dtype=torch.int64))

    def memorise(self, images: Tensor, labels: Tensor) -> None:
        """Takes the training set: images (N, C, H, W) uint8, labels (N,)."""
        self.images, self.labels = images.clone(), labels.clone()

    def _load_from_state_dict(self, state, prefix, *args) -> None:
        self.memorise(state[prefix + "images"], state[prefix + "labels"])
        super()._load_from_state_dict(state, prefix, *args)

    def forward(self, x: Tensor) -> Tensor:
        nearest, found = self._nearest(x.detach().flatten(1))
        points = self.images[nearest].flatten(2).to(x.dtype) / 255
        # the distance itself, so that it is exact to rounding and its gradient is that of the nearest point; the tiny
        # constant keeps that gradient finite on a training image itself
        distance = ((x.flatten(1)[:, None] - points).square().sum(2) + 1e-30).sqrt()
        return torch.where(found, -distance, -torch.inf)

    @torch.no_grad()
    def _nearest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Per image and class the index of the nearest training image, and whether there is one; both (B, K)."""
        best = x.new_full((len(x), self.num_classes), torch.inf)
        index = torch.zeros(len(x), self.num_classes, dtype=torch.int64, device=x.device)
        own = x.square().sum(1, keepdim=True)
        for at in range(0, len(self.images), self.chunk):
            points = self.images[at : at + self.chunk].flatten(1).to(x.dtype) / 255
            labels = self.labels[at : at + self.chunk]
            squared = own - 2 * x @ points.T + points.square().sum(1)
            for k in labels.unique():
                members = (labels == k).nonzero()[:, 0]
                value, position = squared[:, members].min(1)
                closer = value < best[:, k]
                best[:, k] = torch.where(closer, value, best[:, k])
                index[:, k] = torch.where(closer, members[position] + at, index[:, k])
        return index, best.isfinite()

    def bound(self, signal: Signal, walk, name: str) -> Signal:
        """The search rounds: a point chosen may be farther than the nearest by √(its error in the squared distance)."""
        n = math.prod(self.shape)
        squared = 8 * signal.rounding(n + 4) * (2 * signal.magnitude) ** 2
        local = math.sqrt(squared) + signal.rounding(n + 4) * 2 * signal.magnitude + 1e-15
        branched = signal.lipschitz.expand(self.num_classes)
        return Signal((self.num_classes,), branched, 2 * signal.magnitude, signal.error + local, signal.unit)
