"""What proofs, gradients and attacks are evaluated in: float64, exactly as written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

ENTRIES = {"cpu": 1 << 20}  # of gradients at once: more do not fit a processor's cache


def exact(x: Tensor) -> Tensor:
    """The image in float64 that a float32 image stands for: its bytes, divided by 255 with one rounding."""
    return (x.double() * 255).round() / 255


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """What a proof is evaluated in: no autocast, no TF32, no library's own choice of a faster convolution."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            torch.backends.cudnn.flags(enabled=False),
            torch.autocast("cuda", enabled=False),
            torch.autocast("cpu", enabled=False),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def images_at_once(classes: int, shape: tuple[int, ...], device: str, batch_size: int) -> int:
    """How many images to take the gradients of all logits at: `batch_size`, or as many as fit."""
    return max(1, min(batch_size, ENTRIES.get(device, 1 << 27) // (classes * math.prod(shape))))
