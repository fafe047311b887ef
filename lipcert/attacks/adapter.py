"""Access to Foolbox, which runs the attacks of Carlini and Wagner, DeepFool and Boundary."""

from __future__ import annotations

import os
import warnings
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from lipcert.attacks.batch import Answer


def load_foolbox() -> ModuleType:
    """Foolbox, imported on first use (0.3 s), without its warnings and without a search for a git binary."""
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import foolbox
    return foolbox


def as_foolbox(answer: Answer, x: Tensor) -> Any:
    """`answer` as a Foolbox model for images in [0, 1] on the device of `x`; Foolbox insists on an `nn.Module`."""

    class Module(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return answer(images)

    return load_foolbox().PyTorchModel(Module().eval(), bounds=(0, 1), device=x.device)
