"""How far apart the labels of a data set lie: every pair of images of different labels, compared in exact integers.

Pixels are bytes. Less 128 they are integers of at most 2⁷ in magnitude, so that up to 1024 products −2·x·y add up to an
even integer of at most 2²⁵: float32 holds every such sum, in whatever order a matrix product makes them. Longer images
are taken 1024 pixels at a time and added in integers. So ‖x‖² + ‖y‖² − 2⟨x, y⟩ has no error.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.progress import track

EXACT = 1024  # products that float32 adds up without rounding


@dataclass(frozen=True, eq=False)
class Separation:
    """The l2 distances between images of different labels. Squared ones are integers, of pixels in 0..255.

    squared: int64 (N,), of each image to the nearest of another label; 0 where that is the very same image.
    nearest: int64 (N,), which one that is; of several the one of the least label, then of the least index.
    least: the smallest squared distance above 0 between any two. pair: the first two images i < j at that distance.
    duplicates: the sets of images that are one and the same under different labels.
    """

    squared: Tensor
    nearest: Tensor
    least: int
    pair: tuple[int, int]
    duplicates: list[list[int]]

    @property
    def distances(self) -> Tensor:
        """float64 (N,), in pixels of [0, 1]: the integers' roots, divided by 255."""
        return self.squared.double().sqrt() / 255

    @property
    def distance(self) -> float:
        """The smallest above 0, in pixels of [0, 1]."""
        return math.sqrt(self.least) / 255

    @property
    def lipschitz(self) -> float:
        """max ‖one-hot(yᵢ) − one-hot(yⱼ)‖_∞ / ‖xᵢ − xⱼ‖₂ over all pairs of different images: TULIP's Table 2.

        No function that maps each image to its one-hot label has a smaller Lipschitz constant, from l2 to l_inf."""
        return 255 / math.sqrt(self.least)


def separation(
    images: Tensor, labels: Tensor, *, batch_size: int = 1024, device: torch.device | str = "cpu"
) -> Separation:
    """The separation of images uint8 (N, ...) by their labels (N,), exact where TF32 and autocast are off.

    Takes each pair once, batch_size x batch_size pairs at a time: in memory are the images and a few such blocks.
    ValueError if there is only one label, or only one image however often."""
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}")
    if images.dtype != torch.uint8:
        raise ValueError(f"images must be bytes, got {images.dtype}")
    values, counts = labels.unique(return_counts=True)
    if len(values) < 2:
        raise ValueError(f"`dataset` has {len(labels)} images and no two labels: there is nothing to separate")
    if torch.equal(images, images[:1].expand_as(images)):
        raise ValueError(f"`dataset` has {len(labels)} copies of one image: there is nothing to separate")
    sweep = _Sweep(images.to(device).flatten(1), labels.to(device).argsort(stable=True))
    blocks = _blocks(counts.tolist(), batch_size)
    for rows, columns in track(blocks, "comparing images", len(blocks)):
        sweep.compare(rows, columns)
    return sweep.result(labels)


def _blocks(counts: list[int], size: int) -> list[tuple[slice, slice]]:
    """All pairs of images of two labels, once each, as pairs of ranges of at most `size` images sorted by label."""
    total, start, blocks = sum(counts), 0, []
    for count in counts:
        stop = start + count
        rows = [slice(a, min(a + size, stop)) for a in range(start, stop, size)]
        columns = [slice(b, min(b + size, total)) for b in range(stop, total, size)]
        blocks += [(row, column) for row in rows for column in columns]
        start = stop
    return blocks


class _Sweep:
    """What is known after some blocks: of each image, sorted by label, the nearest different one of another label."""

    def __init__(self, pixels: Tensor, order: Tensor):
        """pixels: uint8 (N, n). order: int64 (N,), the images sorted by label."""
        self.pixels, self.order = pixels, order
        dtype = torch.int32 if 2**16 * pixels.shape[1] < 2**31 else torch.int64  # what a sum on the way can reach
        self.far = torch.iinfo(dtype).max
        self.squared = torch.full_like(order, self.far, dtype=dtype)
        self.nearest = torch.zeros_like(order)
        self.twin = torch.zeros_like(order, dtype=torch.bool)
        parts = torch.arange(len(order)).split(EXACT)
        norms = [self._pixels(slice(int(part[0]), int(part[-1]) + 1)).to(dtype).square().sum(1) for part in parts]
        self.norms = torch.cat(norms).to(dtype)

    def compare(self, rows: slice, columns: slice) -> None:
        """Blocks come in the order of `_blocks`, so that among equally near images the first stays."""
        squared = self.norms[rows, None] + self.norms[columns]
        x, y = self._pixels(rows).mul_(-2).split(EXACT, 1), self._pixels(columns).split(EXACT, 1)
        for a, b in zip(x, y, strict=True):
            squared += (a @ b.T).to(squared.dtype)
        if not squared.amin():
            same = squared == 0
            self.twin[rows] |= same.any(1)
            self.twin[columns] |= same.any(0)
            squared.masked_fill_(same, self.far)
        self._keep(squared, rows, columns)
        self._keep(squared.T, columns, rows)

    def result(self, labels: Tensor) -> Separation:
        order, labels = self.order.cpu(), labels.cpu()
        squared, nearest = torch.empty_like(order), torch.empty_like(order)
        squared[order] = self.squared.cpu().long()
        nearest[order] = order[self.nearest.cpu()]
        least = squared.min()
        first = int((squared == least).nonzero()[0])
        pair = (first, int(nearest[first]))
        copies: dict[bytes, list[int]] = defaultdict(list)
        for place in self.twin.nonzero()[:, 0].tolist():  # by label, then by index
            copies[self.pixels[self.order[place]].cpu().numpy().tobytes()].append(int(order[place]))
        for group in copies.values():
            for image in group:
                squared[image] = 0
                nearest[image] = next(other for other in group if labels[other] != labels[image])
        return Separation(squared, nearest, int(least), pair, sorted(map(sorted, copies.values())))

    def _pixels(self, places: slice) -> Tensor:
        return self.pixels.index_select(0, self.order[places]).float().sub_(128)

    def _keep(self, squared: Tensor, places: slice, others: slice) -> None:
        """squared (of places, of others): what is nearer than what was known."""
        low = squared.amin(1)
        better = (low < self.squared[places]).nonzero()[:, 0]
        if len(better):
            self.squared[places][better] = low[better]
            self.nearest[places][better] = others.start + squared[better].argmin(1)
