"""How a loss shows a model to an adversary: as a function of images, without modes or parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yields `model` as a function from images (B, C, H, W) to logits (B, K), in evaluation mode and without gradients
    of its parameters. Afterwards, even after an exception, every module is back in its own mode, and every parameter
    has its own `requires_grad` again.
    """
    modes = [(module, module.training) for module in model.modules()]
    trainable = [p for p in model.parameters() if p.requires_grad]
    try:
        model.eval()
        for p in trainable:
            p.requires_grad_(False)
        yield model
    finally:
        for p in trainable:
            p.requires_grad_(True)
        for module, mode in modes:  # parents come first, so that each child ends in its own mode
            module.train(mode)
