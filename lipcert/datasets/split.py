"""What a data set is once it is loaded: three splits of labelled images, and what was done to the training labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from lipcert.datasets.augmentation import Augmentation, CenterCrop
from lipcert.datasets.files import ImageFiles


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images: `images` uint8 (N, C, H, W), or ImageFiles where they don't fit in memory; `labels` int64 (N,).

    crop: where it is set, the images are larger than those of the model: `batches` reduces them to crop x crop, by
    augmentation or at the centre.
    Raises ValueError for other shapes.
    """

    images: Tensor | ImageFiles
    labels: Tensor
    crop: int | None = None

    def __post_init__(self) -> None:
        if len(self.images.shape) != 4 or self.labels.ndim != 1:
            shapes = f"images {tuple(self.images.shape)}, labels {tuple(self.labels.shape)}"
            raise ValueError(f"images must be (N, C, H, W) and labels (N,), got {shapes}")
        if len(self.images) != len(self.labels):
            raise ValueError(f"there are {len(self.images)} images but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what a model receives."""
        channels, height, width = self.images.shape[1:]
        return (channels, self.crop, self.crop) if self.crop else (channels, height, width)

    def pixels(self) -> Tensor:
        """All images as a model receives them, in bytes: uint8 (N, *input_shape), read from disk and cropped."""
        images = self.images.in_memory("reading") if isinstance(self.images, ImageFiles) else self.images
        return CenterCrop(self.crop)(images) if self.crop else images

    def take(self, indices: Tensor) -> Split:
        """The images at `indices` (M,), in that order."""
        images = self.images.take(indices) if isinstance(self.images, ImageFiles) else self.images[indices]
        return replace(self, images=images, labels=self.labels[indices])

    def head(self, n: int | None) -> Split:
        """The first `n` images; None: all."""
        return self if n is None else self.take(torch.arange(min(n, len(self)), device=self.labels.device))

    def to(self, device: torch.device | str) -> Split:
        """The split on `device`; images on disk stay there."""
        images = self.images if isinstance(self.images, ImageFiles) else self.images.to(device)
        return replace(self, images=images, labels=self.labels.to(device))


class LabelNoise(NamedTuple):
    """The training images with a random label: their indices in `train`, their labels before and after, each (M,)."""

    indices: Tensor
    before: Tensor
    after: Tensor


@dataclass(frozen=True, eq=False)
class Dataset:
    """A loaded data set. `val` may be empty.

    label_noise: which training labels are random. augment: what training does to a batch, in this order.
    eps: the l2 radii to report. workers: how many processes read images that stay on disk.
    """

    name: str
    train: Split
    val: Split
    test: Split
    num_classes: int
    label_noise: LabelNoise
    augment: Sequence[Augmentation] = ()
    eps: Sequence[float] = ()
    workers: int = 0

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what a model receives."""
        return self.train.input_shape
