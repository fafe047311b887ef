"""Distances to the nearest stored image of each class."""

from __future__ import annotations

import torch
from torch import Tensor

from lipcert.kernels.whole import kept_whole

CHUNK = 4096  # stored images that are compared at a time


@kept_whole(
    "class_distances(Tensor x, Tensor images, Tensor labels, int classes) -> Tensor",
    lambda x, images, labels, classes: x.new_empty(x.shape[0], classes),
)
def class_distances(x: Tensor, images: Tensor, labels: Tensor, classes: int) -> Tensor:
    """−(l2 distance to the nearest of the `images` with label k), (B, classes); −inf for a class without images.

    x is (B, C, H, W); images (N, C, H, W) are bytes, of which 255 stands for 1; labels (N,) are their classes. It is
    differentiable in x, as the distance to the nearest image.
    """
    if len(images) == 0:
        return x.new_full((len(x), classes), -torch.inf)
    nearest, found = _nearest(x.detach().flatten(1), images, labels, classes)
    points = images[nearest].flatten(2).to(x.dtype) / 255
    # the distance itself, exact to rounding; the tiny constant keeps its gradient finite on a stored image
    distance = ((x.flatten(1)[:, None] - points).square().sum(2) + 1e-30).sqrt()
    return torch.where(found, -distance, -torch.inf)


@torch.no_grad()
def _nearest(x: Tensor, images: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Per image and class the index of the nearest stored image, and whether there is one; both (B, classes)."""
    best = x.new_full((len(x), classes), torch.inf)
    index = torch.zeros(len(x), classes, dtype=torch.int64, device=x.device)
    own = x.square().sum(1, keepdim=True)
    for at in range(0, len(images), CHUNK):
        points = images[at : at + CHUNK].flatten(1).to(x.dtype) / 255
        chunk = labels[at : at + CHUNK]
        squared = own - 2 * x @ points.T + points.square().sum(1)
        for k in chunk.unique():
            members = (chunk == k).nonzero()[:, 0]
            value, position = squared[:, members].min(1)
            closer = value < best[:, k]
            best[:, k] = torch.where(closer, value, best[:, k])
            index[:, k] = torch.where(closer, members[position] + at, index[:, k])
    return index, best.isfinite()
