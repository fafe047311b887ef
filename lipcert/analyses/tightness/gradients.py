"""How steep a network's margins are, by its gradients at images and near them: estimates from below, never bounds."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lipcert.datasets import batches
from lipcert.datasets.sampling import stream
from lipcert.datasets.split import Split
from lipcert.frozen import Network
from lipcert.frozen.exact import exact, images_at_once
from lipcert.frozen.gradients import jacobians
from lipcert.progress import track

NOISE = 3  # key of the random stream


class Steepest(NamedTuple):
    """`margins` (N, K): y_t − y_j of each image with label t; `near` (N, K): the steepest ‖∇(y_t − y_j)‖₂ found near
    it; `anywhere` (K, K): the steepest ‖∇(y_i − y_j)‖₂ found near any of them."""

    labels: Tensor
    margins: Tensor
    near: Tensor
    anywhere: Tensor

    def local_estimates(self) -> Tensor:
        """(N,): what radii would be if no margin were steeper than `near` its image."""
        return self._radii(self.near)

    def global_estimates(self) -> Tensor:
        """(N,): what radii would be if no margin were steeper than found `anywhere`."""
        return self._radii(self.anywhere[self.labels])

    def _radii(self, steepest: Tensor) -> Tensor:
        own = torch.zeros_like(self.margins, dtype=torch.bool).scatter_(1, self.labels[:, None], True)
        radii = torch.where(self.margins > 0, self.margins / steepest, 0.0)
        return radii.masked_fill(own, torch.inf).amin(1)


def steepest(
    network: Network,
    images: Split,
    *,
    classes: int,
    draws: int,
    noise: float,
    seed: int,
    device: str,
    batch_size: int,
) -> Steepest:
    """The steepest margins at each image and at `draws` points `noise` away from it, in random directions.

    network     in float64, on `device`
    images      of the split
    classes     K
    seed        of the directions
    batch_size  how many images at once, at most

    LMT's protocol (Tsuzuku et al., NeurIPS 2018, §6) image by image, where the authors' takes the steepest of a batch.
    """
    loader = batches(images, images_at_once(classes, images.input_shape, device, batch_size), device=device)
    generator = stream(seed, NOISE)
    parts, anywhere = [], torch.zeros(classes, classes, dtype=torch.float64)
    for image, y in track(loader, "gradients", len(loader)):
        x = exact(image)
        logits, steep = pair_gradients(network, x)
        for _ in range(draws):
            step = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
            step *= noise / step.flatten(1).norm(dim=1).view(-1, *[1] * (x.dim() - 1))
            steep = torch.maximum(steep, pair_gradients(network, x + step)[1])
        margins = logits.gather(1, y[:, None]) - logits
        parts.append((y.cpu(), margins.cpu(), steep[torch.arange(len(y), device=y.device), y].cpu()))
        anywhere = torch.maximum(anywhere, steep.amax(0).cpu())
    labels, margins, near = map(torch.cat, zip(*parts, strict=True))
    return Steepest(labels, margins, near, anywhere)


def pair_gradients(network: Network, x: Tensor) -> tuple[Tensor, Tensor]:
    """The logits (B, K), and ‖∇(y_i − y_j)‖₂ for every two of them (B, K, K). 0 where none is defined:
    that says nothing."""
    logits, gradients = jacobians(network, x)
    gradients -= gradients.mean(1, keepdim=True)  # no difference changes, and less cancels below
    gram = gradients @ gradients.mT
    squares = gram.diagonal(dim1=1, dim2=2)
    norms = (squares[:, :, None] + squares[:, None] - 2 * gram).clamp_min(0).sqrt()
    return logits, norms.nan_to_num(0.0, posinf=torch.inf)
