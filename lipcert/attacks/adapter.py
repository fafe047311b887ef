"""How Foolbox is called here: quietly, on a model that is given back untouched, with one radius per image."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from lipcert.contracts import Norm

LOSSES = ("margin", "ce")


def load_foolbox() -> ModuleType:
    """Foolbox, imported on first use (0.3 s), without its warnings and without asking for a git binary."""
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import foolbox
    return foolbox


@contextmanager
def borrowed(model: nn.Module, x: Tensor, seed: int | None) -> Iterator[Any]:
    """`model` as a Foolbox model: in evaluation mode, its parameters out of the graph, randomness from `seed`.

    Every module's mode, every `requires_grad` and the random state are restored, so that an attack may run inside a
    training step. Seed None draws from the global random stream, as a training adversary should: anew at each step.
    """
    foolbox = load_foolbox()
    modes = [(module, module.training) for module in model.modules()]
    trainable = [p for p in model.parameters() if p.requires_grad]
    cuda = [x.device.index] if x.device.type == "cuda" else []
    try:
        model.eval()
        for p in trainable:
            p.requires_grad_(False)
        with torch.enable_grad(), torch.random.fork_rng(cuda, enabled=seed is not None):
            if seed is not None:
                (torch.cuda.default_generators[cuda[0]] if cuda else torch.default_generator).manual_seed(seed)
            yield foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
    finally:
        for p in trainable:
            p.requires_grad_(True)
        for module, mode in modes:  # parents come first, so each child ends in its own mode
            module.train(mode)


@cache
def descent(norm: Norm) -> Callable[..., Any]:
    """Foolbox's gradient descent in `norm`, with a choice of loss and with `epsilon` a (B, 1, 1, 1) tensor of radii > 0.

    "margin" climbs the largest other logit minus the label's. Cross-entropy ("ce") has no gradient left in float32 once
    the logits are large, and would report robustness that is not there.
    """
    load_foolbox()
    import eagerpy
    from foolbox.attacks import gradient_descent_base

    base = {
        Norm.L2: gradient_descent_base.L2BaseGradientDescent,
        Norm.LINF: gradient_descent_base.LinfBaseGradientDescent,
    }[norm]

    class Descent(base):  # type: ignore[valid-type, misc]
        def __init__(self, *, loss: str, **settings: Any) -> None:
            super().__init__(**settings)
            self.loss = loss

        def get_loss_fn(self, model: Any, labels: Any) -> Callable[[Any], Any]:
            if self.loss == "ce":
                return super().get_loss_fn(model, labels)
            return lambda x: eagerpy.astensor(-margin(model(x).raw, labels.raw).sum())

        def get_random_start(self, x0: Any, epsilon: Any) -> Any:
            return x0 + epsilon * super().get_random_start(eagerpy.zeros_like(x0), 1.0)

        def project(self, x: Any, x0: Any, epsilon: Any) -> Any:
            return x0 + epsilon * super().project((x - x0) / epsilon, eagerpy.zeros_like(x0), 1.0)

    return Descent


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """The label's logit minus the largest other one, (B,): negative where misclassified."""
    label = logits.gather(1, y[:, None])
    return (label - logits.scatter(1, y[:, None], -torch.inf).amax(1, keepdim=True)).squeeze(1)
