"""What the attacks share: access to Foolbox, gradient descent with one radius per image, and checks of settings."""

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

Answer = Callable[[Tensor], Tensor]  # images (B, C, H, W) in [0, 1] to logits (B, K)

NORMS = (Norm.L2, Norm.LINF)  # those that the attacks are written for
LOSSES = ("ce", "margin")
MARGIN = 1e-4  # a result's wrong logit leads by this, at logits of spread 10: found in float32, still wrong in float64


def load_foolbox() -> ModuleType:
    """Foolbox, imported on first use (0.3 s), without its warnings and without asking for a git binary."""
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


@contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Inside the context, random numbers on the CPU and on `device` come from `seed`; afterwards the global random
    stream goes on as if nothing had been drawn. With seed None, random numbers are drawn from the global stream.
    """
    cuda = [device.index] if device.type == "cuda" else []
    with torch.random.fork_rng(cuda, enabled=seed is not None):
        if seed is not None:
            (torch.cuda.default_generators[cuda[0]] if cuda else torch.default_generator).manual_seed(seed)
        yield


@cache
def descent(norm: Norm) -> Callable[..., Any]:
    """The class of Foolbox's gradient descent in `norm` (l2 or linf), changed in two ways.

    It takes the keyword `loss`: "ce", the cross-entropy, or "margin", the largest wrong logit minus the label's. Both
    are computed from `rescaled` logits: on raw logits Foolbox's cross-entropy loses its gradient where they are large
    (at ten times those of an ordinary network, 40 steps broke 8 % of the images instead of 57 %) or tiny, and the
    attack then reports robustness that is not there. And `epsilon` holds one radius > 0 per image, shape (B, 1, 1, 1).
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
                return eagerpy.astensor(wrong_by(logits, y).sum())

            return loss_fn

        def get_random_start(self, x0: Any, epsilon: Any) -> Any:
            return x0 + epsilon * super().get_random_start(eagerpy.zeros_like(x0), 1.0)

        def project(self, x: Any, x0: Any, epsilon: Any) -> Any:
            return x0 + epsilon * super().project((x - x0) / epsilon, eagerpy.zeros_like(x0), 1.0)

    return Descent


def rescaled(logits: Tensor, span: float, like: Tensor | None = None) -> Tensor:
    """`logits` (B, K), each row multiplied by the constant that makes the largest logit of the same row of `like` (by
    default `logits` itself) exceed the third largest by `span`.

    Predictions stay the same, and no loss can saturate. The third largest is taken, not the smallest: with 100 classes
    the smallest says nothing about the scale at which the leading logits differ.
    """
    top = (logits if like is None else like).detach().topk(min(3, logits.shape[1])).values
    spread = top[:, :1] - top[:, -1:]
    return logits * (span / torch.where(spread > 0, spread, 1.0).clamp_min(1e-30))


def wrong_by(logits: Tensor, y: Tensor) -> Tensor:
    """The largest wrong logit minus the label's, (B,), of `logits` (B, K): above 0 where y (B,) is not the answer."""
    return logits.scatter(1, y[:, None], -torch.inf).amax(1) - logits.gather(1, y[:, None])[:, 0]


def choose(rows: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The images of `a` (B, C, H, W) where `rows` (B,) is true, those of `b` elsewhere."""
    return torch.where(rows.reshape(-1, *[1] * (a.ndim - 1)), a, b)


def per_image(eps: Tensor | None, listed: Sequence[float] | None, x: Tensor) -> Any:
    """The radii as Foolbox takes them: an eagerpy tensor (B, 1, 1, 1) in x's precision, 0 replaced by 1e-12.

    `eps` is (B,) or a scalar, in pixel units; None stands for the first radius in `listed`, the attack's own list.
    Raises ValueError for a radius that is negative or NaN, and where there is neither an `eps` nor a list.
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
    """The radii of a configuration as a list. Raises ValueError at the first that is negative or not finite."""
    listed = [float(e) for e in (eps if isinstance(eps, Sequence) else [eps])]
    for e in listed:
        if not 0 <= e < float("inf"):
            raise ValueError(f"`attack.eps`: got {e}, a radius is at least 0 and finite")
    return listed


def check(*, norm: str | None = None, loss: str | None = None, **counts: int | None) -> None:
    """Checks an attack's settings: its norm, its loss, and `counts` that must be whole numbers of at least 1.

    Raises ValueError, naming the key, the value and what is allowed, in one line.
    """
    for key, value, choices in (("norm", norm, NORMS), ("loss", loss, LOSSES)):
        if value is not None and value not in choices:
            raise ValueError(f"`attack.{key}`: got {value!r}, choose one of {', '.join(choices)}")
    for key, count in counts.items():
        if count is not None and (not isinstance(count, int) or count < 1):
            raise ValueError(f"`attack.{key}`: got {count!r}, must be a whole number of at least 1")
