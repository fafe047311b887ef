"""Augmentations of a whole batch on its own device, with a random choice for each image and no loop over images.

Images are floats in [0, 1], (B, C, H, W). An augmentation is a pure function `augmentation(x, u)` of the images and of
uniform random numbers u (B, draws) in [0, 1). These are drawn on the CPU for the batch of all ranks, and each rank is
given its rows: so every rank, on any device, sees the images that a single rank would see.

Fill values are pixels in 0..255, as in the papers.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import index
from typing import ClassVar, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from lipcert.datasets.checks import check


@runtime_checkable
class Augmentation(Protocol):
    """What maps images (B, C, H, W) and uniform numbers (B, draws) in [0, 1) to images."""

    @property
    def draws(self) -> int: ...

    def __call__(self, x: Tensor, u: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class RandomCrop:
    """A window at a uniformly random place of the padded image.

    padding: pixels added on all sides. fill: their value, or "edge": that of the nearest pixel of the image.
    size: the side of the window; None: the `crop` of the data set, or else the size of the image.
    """

    padding: int = 0
    fill: float | str = 0
    size: int | None = None
    draws: ClassVar[int] = 2

    def __post_init__(self) -> None:
        _check_fill(self.fill, "edge")
        check("RandomCrop.padding", self.padding, "an integer from 0 to 1,000", lambda v: 0 <= index(v) <= 1000)
        check("RandomCrop.size", self.size, "a positive integer or null", lambda v: v is None or index(v) > 0)

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        border = (self.padding,) * 4
        edge = self.fill == "edge"
        padded = F.pad(x, border, mode="replicate") if edge else F.pad(x, border, value=_level(self.fill))
        height, width = (self.size, self.size) if self.size else x.shape[-2:]
        if height > padded.shape[-2] or width > padded.shape[-1]:
            raise ValueError(f"`RandomCrop.size` {self.size} exceeds the padded image {tuple(padded.shape[-2:])}")
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: (B, C, tops, lefts, height, width)
        top, left = _pick(u[:, 0], windows.shape[2]), _pick(u[:, 1], windows.shape[3])
        return windows[torch.arange(len(x), device=x.device), :, top, left]


@dataclass(frozen=True)
class HorizontalFlip:
    """Mirrors half of the images left to right."""

    draws: ClassVar[int] = 1

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        return torch.where(u[:, :, None, None] < 0.5, x.flip(-1), x)


@dataclass(frozen=True)
class Cutout:
    """Fills a square whose centre is a uniformly random crossing of the lines between pixels, 0..H x 0..W.

    size: the side of the square, which is clipped at the borders of the image. fill: a pixel value, or "mean": the mean
    over the square, for each channel (TULIP's cutout).
    """

    size: int
    fill: float | str = "mean"
    draws: ClassVar[int] = 2

    def __post_init__(self) -> None:
        _check_fill(self.fill, "mean")
        check("Cutout.size", self.size, "a positive integer", lambda v: index(v) > 0)

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        rows, columns = (self._covered(length, u[:, i]) for i, length in enumerate(x.shape[-2:]))
        square = rows[:, None, :, None] & columns[:, None, None, :]
        if self.fill != "mean":
            return x.masked_fill(square, _level(self.fill))
        # A square of side 1 may be clipped to nothing; then there is no pixel to fill.
        area = square.sum((2, 3), keepdim=True).clamp(min=1)
        return torch.where(square, (x * square).sum((2, 3), keepdim=True) / area, x)

    def _covered(self, length: int, u: Tensor) -> Tensor:
        first = (_pick(u, length + 1) - self.size // 2)[:, None]
        index = torch.arange(length, device=u.device)
        return (first <= index) & (index < first + self.size)


@dataclass(frozen=True)
class CenterCrop:
    """The central window of side `size`, half a pixel above or left of the centre where none is central."""

    size: int
    draws: ClassVar[int] = 0

    def __post_init__(self) -> None:
        check("CenterCrop.size", self.size, "a positive integer", lambda v: index(v) > 0)

    def __call__(self, x: Tensor, u: Tensor | None = None) -> Tensor:
        height, width = x.shape[-2:]
        if self.size > min(height, width):
            raise ValueError(f"`CenterCrop.size` {self.size} exceeds the image {height} x {width}")
        top, left = (height - self.size) // 2, (width - self.size) // 2
        return x[..., top : top + self.size, left : left + self.size]


def _pick(u: Tensor, choices: int) -> Tensor:
    """Uniform numbers in [0, 1) as integers 0..choices-1; rounding to float32 can't reach `choices`."""
    return (u * choices).to(torch.int64)


def _level(fill: float | str) -> float:
    return float(fill) / 255


def _check_fill(fill: float | str, word: str) -> None:
    check("fill", fill, f"a pixel value from 0 to 255 or {word!r}", lambda v: v == word or 0 <= v <= 255)
