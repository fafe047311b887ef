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
    it; `anywhere` (K, K): the steepest ‖∇(y_i − y_j)‖₂ found near any of them. `batch` (N, K) is the steepest ‖∇(y_t −
    y_j)‖₂ near any image of the same batch, and None unless it was asked for."""

    labels: Tensor
    margins: Tensor
    near: Tensor
    anywhere: Tensor
    batch: Tensor | None = None

    def local_estimates(self) -> Tensor:
        """(N,): what radii would be if no margin were steeper than `near` its image."""
        return self._radii(self.near)

    def global_estimates(self) -> Tensor:
        """(N,): what radii would be if no margin were steeper than found `anywhere`."""
        return self._radii(self.anywhere[self.labels])

    def batch_estimates(self) -> Tensor | None:
        """(N,): what radii would be if no margin were steeper than near any image of the same `batch`."""
        return None if self.batch is None else self._radii(self.batch)

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
    by_batch: bool = False,
) -> Steepest:
    """The steepest margins at each image and at `draws` points `noise` away from it, in random directions.

    network     in float64, on `device`
    images      of the split
    classes     K
    seed        of the directions
    batch_size  how many images at once, at most; with `by_batch` how many are one batch
    by_batch    whether also the steepest of each batch is wanted

    LMT's protocol (Tsuzuku et al., NeurIPS 2018, §6) image by image. With `by_batch` it is the authors' own
    (analyze_inequality.py of ytsmiling/lmt) as well: the noise of a whole batch is one vector of norm `noise`·√B, and
    the steepest gradient is that of a batch. In theirs that norm is 1, and the images themselves are left out.
    """
    at_once = images_at_once(classes, images.input_shape, device, batch_size)
    loader = batches(images, batch_size if by_batch else at_once, device=device)
    generator = stream(seed, NOISE)
    parts, anywhere = [], torch.zeros(classes, classes, dtype=torch.float64)
    for image, y in track(loader, "gradients", len(loader)):
        x = exact(image)
        logits, steep = _few_at_once(network, x, at_once)
        for _ in range(draws):
            step = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
            lengths = step.flatten(1).norm(dim=1)
            if by_batch:
                lengths = lengths.square().mean().sqrt().expand(len(x))
            step *= noise / lengths.view(-1, *[1] * (x.dim() - 1))
            steep = torch.maximum(steep, _few_at_once(network, x + step, at_once)[1])
        margins, largest = logits.gather(1, y[:, None]) - logits, steep.amax(0)
        own = steep[torch.arange(len(y), device=y.device), y]
        parts.append((y.cpu(), margins.cpu(), own.cpu(), largest[y].cpu()))
        anywhere = torch.maximum(anywhere, largest.cpu())
    labels, margins, near, batch = map(torch.cat, zip(*parts, strict=True))
    return Steepest(labels, margins, near, anywhere, batch if by_batch else None)


def _few_at_once(network: Network, x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`pair_gradients` of images, of at most `count` of them at once."""
    logits, norms = zip(*(pair_gradients(network, part) for part in x.split(count)), strict=True)
    return torch.cat(logits), torch.cat(norms)


def pair_gradients(network: Network, x: Tensor) -> tuple[Tensor, Tensor]:
    """The logits (B, K), and ‖∇(y_i − y_j)‖₂ for every two of them (B, K, K). 0 where none is defined:
    that says nothing."""
    logits, gradients = jacobians(network, x)
    gradients -= gradients.mean(1, keepdim=True)  # no difference changes, and less cancels below
    gram = gradients @ gradients.mT
    squares = gram.diagonal(dim1=1, dim2=2)
    norms = (squares[:, :, None] + squares[:, None] - 2 * gram).clamp_min(0).sqrt()
    return logits, norms.nan_to_num(0.0, posinf=torch.inf)
