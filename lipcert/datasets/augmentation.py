"""Augmentations of a whole batch on its own device, one random choice per image and no loop over images.

Images are float in [0, 1], (B, C, H, W). An augmentation consumes `draws` uniform numbers in [0, 1) per image and is
otherwise a pure function: `augmentation(x, u)` with u (B, draws). So whoever draws `u` for a global batch on the CPU
and hands each rank its rows gives every rank, on any device, the images that a single rank would see.

Fills are in units of 8-bit pixels, 0..255, as the papers write them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor


@runtime_checkable
class Augmentation(Protocol):
    """`augmentation(x, u)`: images (B, C, H, W) and uniforms (B, draws) in [0, 1) to images."""

    @property
    def draws(self) -> int: ...

    def __call__(self, x: Tensor, u: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class RandomCrop:
    """A window, its place uniform in the image padded by `padding` on all sides.

    `size` is its side; None: the data set's `crop`, else the image's own size. `fill` is a pixel value, or "edge" to
    repeat the border.
    """

    padding: int = 0
    fill: float | str = 0
    size: int | None = None
    draws: ClassVar[int] = 2

    def __post_init__(self) -> None:
        _check_fill(self.fill, "edge")
        if self.padding < 0:
            raise ValueError(f"`RandomCrop.padding` must not be negative, got {self.padding}")

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
    """Blanks a square of side `size`, its centre uniform on the grid lines 0..H x 0..W, clipped at the borders.

    `fill` is a pixel value, or "mean": each channel's mean over the square it replaces (TULIP's cutout).
    """

    size: int
    fill: float | str = "mean"
    draws: ClassVar[int] = 2

    def __post_init__(self) -> None:
        _check_fill(self.fill, "mean")
        if self.size <= 0:
            raise ValueError(f"`Cutout.size` must be positive, got {self.size}")

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        rows, columns = (self._covered(length, u[:, i]) for i, length in enumerate(x.shape[-2:]))
        square = rows[:, None, :, None] & columns[:, None, None, :]
        if self.fill != "mean":
            return x.masked_fill(square, _level(self.fill))
        # A square of side 1 may be clipped to nothing: then there is no pixel to fill either.
        area = square.sum((2, 3), keepdim=True).clamp(min=1)
        return torch.where(square, (x * square).sum((2, 3), keepdim=True) / area, x)

    def _covered(self, length: int, u: Tensor) -> Tensor:
        first = (_pick(u, length + 1) - self.size // 2)[:, None]
        index = torch.arange(length, device=u.device)
        return (first <= index) & (index < first + self.size)


@dataclass(frozen=True)
class CenterCrop:
    """The central window of `size`, half a pixel up and left of the centre where it can't be central."""

    size: int
    draws: ClassVar[int] = 0

    def __call__(self, x: Tensor, u: Tensor | None = None) -> Tensor:
        height, width = x.shape[-2:]
        if self.size > min(height, width):
            raise ValueError(f"`CenterCrop.size` {self.size} exceeds the image {height} x {width}")
        top, left = (height - self.size) // 2, (width - self.size) // 2
        return x[..., top : top + self.size, left : left + self.size]


def _pick(u: Tensor, choices: int) -> Tensor:
    """Uniforms in [0, 1) to integers 0..choices-1; float32 rounding can't reach `choices`."""
    return (u * choices).to(torch.int64)


def _level(fill: float | str) -> float:
    return float(fill) / 255


def _check_fill(fill: float | str, word: str) -> None:
    if fill != word and (isinstance(fill, str) or not 0 <= fill <= 255):
        raise ValueError(f"`fill` must be a pixel value from 0 to 255 or {word!r}, got {fill!r}")
