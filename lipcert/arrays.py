"""What the Python API takes and returns: arrays of numpy or tensors, whichever it is given."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lipcert.contracts import Kind, Norm


class Certification(NamedTuple):
    """What is proved of a batch of images, as arrays (B,): of numpy if the images were, else of torch.

    prediction  the class with the largest logit
    margin      the label's logit minus the largest other one; below 0 where the prediction is another class
    radius      every image in [0, 1] that lies nearer than this, in `norm`, is given the label too; 0 where the
                prediction is not the label
    kind        what the radius claims: `Kind.PROOF`
    norm        of the radius: l2, linf or l1

    `radius_float32`, at most `radius`, is the same of images of float32 and of the network as it is deployed in
    float32, whatever the order of summation.
    """

    prediction: Any
    margin: Any
    radius: Any
    kind: Kind
    norm: Norm
    radius_float32: Any = None


class AttackResult(NamedTuple):
    """What an attack found for a batch of images, as arrays: of numpy if the images were, else of torch.

    images    (B, C, H, W) in [0, 1], float64: what the attack tried last, which is misclassified where it succeeded
    success   (B,) whether the network misclassifies them, judged in float64
    distance  (B,) from the clean images in `norm`: 0 where those are misclassified themselves, inf without success
    norm      of the distance: l2 or linf
    """

    images: Any
    success: Any
    distance: Any
    norm: Norm


class LipschitzBound(NamedTuple):
    """Proved bounds, rounded up, of how far a network's outputs move while its input moves by 1.

    vector  of all K outputs as one vector
    logits  (K,) of each output by itself
    pairs   (K, K) of each difference of two outputs: what certified radii rest on
    layers  a dictionary for each linear layer: its name (`layer`), its operator norm (`norm`), the bound up to it
            (`lipschitz`), and its `cost`: the factor by which `vector` would be smaller if this norm were 1
    norm    of all distances: l2, linf or l1
    """

    vector: float
    logits: np.ndarray
    pairs: np.ndarray
    layers: list[dict[str, Any]]
    norm: Norm


def known_norm(norm: str) -> Norm:
    try:
        return Norm(norm)
    except ValueError:
        raise ValueError(f"`norm` must be one of {', '.join(Norm)}, got {norm!r}") from None


def tensor_of(given: Any) -> Tensor:
    """What is given, on the CPU; an array whose memory torch can't share, such as one that is read-only, is copied."""
    if not isinstance(given, Tensor):
        given = np.require(given, requirements=["C", "W"])
    return torch.as_tensor(given).detach().cpu()


def pixels(images: Any, shape: tuple[int, ...]) -> Tensor:
    """Images as float64 in [0, 1]; ValueError where they are none."""
    x = tensor_of(images)
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
    y = tensor_of(labels)
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
