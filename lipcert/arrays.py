"""What the Python API takes, arrays of numpy or tensors, as tensors; and its results as what was given."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lipcert.contracts import Norm


def known_norm(norm: str) -> Norm:
    try:
        return Norm(norm)
    except ValueError:
        raise ValueError(f"`norm` must be one of {', '.join(Norm)}, got {norm!r}") from None


def pixels(images: Any, shape: tuple[int, ...]) -> Tensor:
    """Images as float64 in [0, 1]; ValueError where they are none."""
    x = torch.as_tensor(images if isinstance(images, Tensor) else np.ascontiguousarray(images)).detach().cpu()
    if x.dim() != len(shape) + 1 or tuple(x.shape[1:]) != tuple(shape):
        raise ValueError(f"`images` must be of shape (B, {', '.join(map(str, shape))}), got {tuple(x.shape)}")
    if x.dtype == torch.uint8:
        return x.double() / 255
    if not x.is_floating_point():
        raise ValueError(f"`images` must be floats in [0, 1] or bytes, got {x.dtype}")
    x = x.double()
    if not bool(((x >= 0) & (x <= 1)).all()):
        raise ValueError(f"`images` must lie in [0, 1], got {float(x.min())!r} to {float(x.max())!r}")
    return x


def classes(labels: Any, count: int, number: int) -> Tensor:
    """Labels as int64; ValueError where they are none."""
    y = torch.as_tensor(labels if isinstance(labels, Tensor) else np.ascontiguousarray(labels)).detach().cpu()
    if y.shape != (count,) or y.is_floating_point() or y.dtype == torch.bool:
        raise ValueError(f"`labels` must be {count} whole numbers, one an image, got {y.dtype} of {tuple(y.shape)}")
    if count and not (int(y.min()) >= 0 and int(y.max()) < number):
        raise ValueError(f"`labels` must be from 0 to {number - 1}, got {int(y.min())} to {int(y.max())}")
    return y.long()


def radii_of(eps: Any, count: int, entries: int) -> Tensor:
    """Radii (count,) as float64; ValueError where they are none. No image of [0, 1] is farther than its number of
    entries, in any norm."""
    try:
        radii = (
            torch.as_tensor(eps if isinstance(eps, Tensor) else np.asarray(eps, dtype=float)).detach().cpu().double()
        )
        radii = radii.expand(count)
    except (ValueError, TypeError, RuntimeError):
        raise ValueError(f"`eps` must be a number, or {count}, one an image, got {eps!r}".split("\n")[0]) from None
    if not bool((radii >= 0).all()):
        raise ValueError(f"`eps` must be at least 0, got {float(radii.min())!r}")
    return radii.clamp_max(entries)


def like(given: Any, result: Tensor) -> Any:
    """A tensor where a tensor was given, else an array of numpy."""
    return result if isinstance(given, Tensor) else result.numpy()
