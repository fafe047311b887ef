"""Batches of a split, the same on one rank or many: all randomness is a pure function of (seed, epoch, batch)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.datasets.augmentation import Augmentation, CenterCrop
from lipcert.datasets.files import ImageFiles, read_batches
from lipcert.datasets.sampling import stream
from lipcert.datasets.split import Split

ORDER, AUGMENT = 1, 2  # keys of the random streams


def batches(
    split: Split,
    batch_size: int,
    *,
    device: torch.device | str,
    augment: Sequence[Augmentation] | None = None,
    shuffle: bool = False,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    drop_last: bool = False,
    workers: int = 0,
) -> Batches:
    """The split in batches, moved to `device`: images in memory once, images on disk as `workers` processes read them.

    batch_size: of all ranks together, a multiple of `world_size`. Each rank yields its slice of every batch.
    augment: what is done to a batch, in this order.
    shuffle: whether images come in a random order, fixed by `seed` and the epoch, or in that of their indices.
    drop_last: drops the last batch if it is smaller, but not if it is the only one. A smaller batch is divided into
    slices that differ by one image, and may be empty.
    Returns an iterable of (x, y): x float32 (B, C, H, W), pixel / 255 and then augmented, and y int64 (B,).
    Raises ValueError where the ranks can't share the batches.
    """
    if batch_size <= 0:
        raise ValueError(f"`batch_size` must be positive, got {batch_size}")
    if batch_size % world_size:
        raise ValueError(f"`batch_size` must be a multiple of the {world_size} ranks that share it, got {batch_size}")
    if not 0 <= rank < world_size:
        raise ValueError(f"`rank` must be from 0 to {world_size - 1}, got {rank}")
    count = len(split)
    if drop_last:
        batch_size = min(batch_size, count - count % world_size)
        if batch_size == 0:
            raise ValueError(f"{count} images are too few for {world_size} ranks: use fewer `devices`")
        count -= count % batch_size
    bounds = [(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    device = torch.device(device)
    return Batches(split.to(device), bounds, device, tuple(augment or ()), shuffle, seed, rank, world_size, workers)


@dataclass(eq=False)
class Batches:
    """What `batches` returns. Training sets `epoch` before each pass; a pass that has begun keeps its own."""

    split: Split
    bounds: Sequence[tuple[int, int]]  # of the global batches, in the epoch's order
    device: torch.device
    augment: Sequence[Augmentation]
    shuffle: bool
    seed: int
    rank: int
    world_size: int
    workers: int
    epoch: int = 0

    def __len__(self) -> int:
        return len(self.bounds)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch = self.epoch
        # A tensor on the device: CUDA divides by a Python number as a product with its rounded reciprocal.
        white = torch.tensor(255.0, device=self.device)
        crop = CenterCrop(self.split.crop) if self.split.crop else None
        for number, (images, labels) in enumerate(self._read(epoch)):
            x = images.to(torch.float32).div_(white)
            for augmentation, u in zip(self.augment, self._uniforms(epoch, number), strict=True):
                x = augmentation(x, u)
            yield (crop(x) if crop else x), labels

    def _read(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The slices of this rank: images uint8 (B, C, H, W) and labels int64 (B,), on the device."""
        images, labels, count = self.split.images, self.split.labels, len(self.split)
        generator = stream(self.seed, ORDER, epoch)
        order = torch.randperm(count, generator=generator) if self.shuffle else torch.arange(count)
        if isinstance(images, ImageFiles):
            slices = [self._slice(order[start:stop]) for start, stop in self.bounds]
            pin = self.device.type == "cuda"
            for indices, read in zip(slices, read_batches(images, slices, self.workers, pin), strict=True):
                yield read.to(self.device, non_blocking=True), labels[indices.to(self.device)]
        else:
            order = order.to(self.device)
            for start, stop in self.bounds:
                indices = self._slice(order[start:stop])
                yield images.index_select(0, indices), labels.index_select(0, indices)  # ten times faster than indexing

    def _uniforms(self, epoch: int, number: int) -> Sequence[Tensor]:
        """A tensor (B, draws) for each augmentation: the rows of this rank, from what is drawn for all ranks."""
        draws = [augmentation.draws for augmentation in self.augment]
        start, stop = self.bounds[number]
        u = torch.rand(stop - start, sum(draws), generator=stream(self.seed, AUGMENT, epoch, number))
        return self._slice(u).to(self.device).split(draws, dim=1)

    def _slice(self, batch: Tensor) -> Tensor:
        return batch.tensor_split(self.world_size)[self.rank]
