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

LOSSES = ("ce", "margin")
MARGIN = 1e-4  # by which a result is to be wrong, at logits of spread 10: what float32 finds stays wrong in float64


def load_foolbox() -> ModuleType:
    """Foolbox, imported on first use (0.3 s), without its warnings and without asking for a git binary."""
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import foolbox
    return foolbox


@contextmanager
def borrowed(model: nn.Module, x: Tensor, *, seed: int | None = None) -> Iterator[Any]:
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
    """Foolbox's gradient descent in `norm` with `loss` "ce" or "margin"; `epsilon` holds radii > 0, (B, 1, 1, 1).

    Both losses see rescaled logits. On raw ones Foolbox's cross-entropy loses its gradient as soon as logits are large
    (at ten times an ordinary network's, 40 steps broke 8 % of the images instead of 57 %) or tiny, and then reports
    robustness that is not there.
    """
    load_foolbox()
    import eagerpy
    from foolbox.attacks import gradient_descent_base as foolbox_base

    bases = {Norm.L2: foolbox_base.L2BaseGradientDescent, Norm.LINF: foolbox_base.LinfBaseGradientDescent}
    base: Any = bases[norm]

    class Descent(base):
        def __init__(self, *, loss: str, **settings: Any) -> None:
            super().__init__(**settings)
            self.loss = loss

        def get_loss_fn(self, model: Any, labels: Any) -> Callable[[Any], Any]:
            y = labels.raw

            def loss_fn(inputs: Any) -> Any:
                logits = rescaled(model(inputs).raw, 4.0)
                if self.loss == "ce":
                    return eagerpy.astensor(nn.functional.cross_entropy(logits, y, reduction="sum"))
                others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
                return eagerpy.astensor((others - logits.gather(1, y[:, None])[:, 0]).sum())

            return loss_fn

        def get_random_start(self, x0: Any, epsilon: Any) -> Any:
            return x0 + epsilon * super().get_random_start(eagerpy.zeros_like(x0), 1.0)

        def project(self, x: Any, x0: Any, epsilon: Any) -> Any:
            return x0 + epsilon * super().project((x - x0) / epsilon, eagerpy.zeros_like(x0), 1.0)

    return Descent


def rescaled(logits: Tensor, span: float, like: Tensor | None = None) -> Tensor:
    """`logits` (B, K) times one constant per image: in `like` (by default themselves) the largest exceeds the third
    largest by `span`. Predictions stay, and no loss can saturate. The third, not the smallest: with 100 classes the
    smallest says nothing of the scale at which the leading ones differ.
    """
    top = (logits if like is None else like).detach().topk(min(3, logits.shape[1])).values
    spread = top[:, :1] - top[:, -1:]
    return logits * (span / torch.where(spread > 0, spread, 1.0).clamp_min(1e-30))


def wrong_by(logits: Tensor, y: Tensor) -> Tensor:
    """The largest wrong logit (B,) minus the label's: above 0 where the image is misclassified."""
    return logits.scatter(1, y[:, None], -torch.inf).amax(1) - logits.gather(1, y[:, None])[:, 0]


def choose(rows: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The images of `a` where `rows` (B,) holds, those of `b` elsewhere."""
    return torch.where(rows.reshape(-1, *[1] * (a.ndim - 1)), a, b)


def per_image(eps: Tensor | None, listed: Sequence[float] | None, x: Tensor) -> Any:
    """The radii as Foolbox takes them: eagerpy, (B, 1, 1, 1) in x's precision, 0 replaced by 1e-12.

    `eps` is (B,) or a scalar; None means the first of the attack's own list. Raises ValueError below 0 and on NaN.
    """
    import eagerpy

    if eps is None and not listed:
        raise ValueError("`attack.eps`: is empty, list at least one radius or pass one per image")
    radius = torch.as_tensor(listed[0] if eps is None and listed else eps, dtype=x.dtype, device=x.device)
    if not (radius >= 0).all():
        raise ValueError(f"`attack.eps`: got {radius.min().item()}, a radius is at least 0")
    radius = radius.expand(len(x)).reshape(-1, *[1] * (x.ndim - 1))
    return eagerpy.astensor(radius.clamp_min(1e-12))


def radii(eps: float | Sequence[float]) -> list[float]:
    """The radii of a configuration as a list; ValueError names the first that is negative or not a number."""
    listed = [float(e) for e in (eps if isinstance(eps, Sequence) else [eps])]
    for e in listed:
        if not e >= 0:
            raise ValueError(f"`attack.eps`: got {e}, a radius is at least 0")
    return listed


def check(*, norm: str | None = None, loss: str | None = None, **counts: int | None) -> None:
    """Raises ValueError, naming the key, the value and the way out, for settings that no attack can run with."""
    for key, value, choices in (("norm", norm, tuple(Norm)), ("loss", loss, LOSSES)):
        if value is not None and value not in choices:
            raise ValueError(f"`attack.{key}`: got {value!r}, choose one of {', '.join(choices)}")
    for key, count in counts.items():
        if count is not None and (not isinstance(count, int) or count < 1):
            raise ValueError(f"`attack.{key}`: got {count!r}, must be a whole number of at least 1")
