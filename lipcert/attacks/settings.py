"""The settings of an attack: how they are checked, and how they become its label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import field, fields
from typing import Any

import torch
from torch import Tensor

from lipcert import configuration
from lipcert.attacks.batch import per_image
from lipcert.contracts import Norm

NORMS = (Norm.L2, Norm.LINF)  # that most attacks are written for
LOSSES = ("ce", "margin")


def setting(default: Any, label: str, none: str = "") -> Any:
    """A dataclass field that `label_of` shows where its value is not the default.

    `label` is a format string for the value, such as "-step{:g}"; `none` is shown where the value is None.
    """
    return field(default=default, metadata={"label": label, "none": none})


def label_of(attack: Any, head: str) -> str:
    """The label of an attack, which names its stored rows: `head`, and each `setting` that differs from its default."""
    for f in fields(attack):
        if f.metadata and (value := getattr(attack, f.name)) != f.default:
            head += f.metadata["none"] if value is None else f.metadata["label"].format(value)
    return head


def check(
    attack: Any,
    *,
    counts: Sequence[str] = (),
    positive: Sequence[str] = (),
    norms: Sequence[Norm] = NORMS,
    losses: Sequence[str] = LOSSES,
    several: bool = False,
) -> None:
    """Raises ValueError unless the attack's settings make sense.

    These are its norm and loss, if it has them, which must be among `norms` and `losses` (`several`: of these one or
    more, joined by a +); `batch_size`, `images` and the fields named in `counts`, which must be whole numbers of at
    least 1 or None; and those named in `positive`, which must be above 0 and finite.
    """
    if (norm := getattr(attack, "norm", norms[0])) not in norms:
        raise ValueError(f"`attack.norm`: got {norm!r}, choose one of {', '.join(norms)}")
    loss = getattr(attack, "loss", losses[0])
    if not set(loss.split("+") if several else [loss]) <= set(losses):
        among = "one or more, joined by +, of" if several else "one of"
        raise ValueError(f"`attack.loss`: got {loss!r}, choose {among} {', '.join(losses)}")
    for key in ("batch_size", "images", *counts):
        if (count := getattr(attack, key)) is not None and (not isinstance(count, int) or count < 1):
            raise ValueError(f"`attack.{key}`: got {count!r}, must be a whole number of at least 1")
    for key in positive:
        if not 0 < (value := getattr(attack, key)) < float("inf"):
            raise ValueError(f"`attack.{key}`: got {value}, must be above 0 and finite")


def radii(eps: float | Sequence[float]) -> list[float]:
    """The radii of a configuration as a list; ValueError where one of them is none, or comes twice."""
    return configuration.radii(eps if isinstance(eps, Sequence) else [eps], "attack.eps")


def radius_of(attack: Any, eps: Tensor | None, x: Tensor) -> Tensor:
    """The radius of each of the clean images `x` (B, ...), as (B, 1, ...) in their precision, and at least 1e-12.

    It is `eps`, one for all or (B,), or, where that is None, the first of `attack.eps`. Raises ValueError for an `x`
    outside [0, 1], for a radius that is negative or NaN, and where there is no radius.
    """
    if not ((x >= 0) & (x <= 1)).all():
        raise ValueError("`x`: a clean image leaves [0, 1] or is NaN")
    if eps is None and not attack.eps:
        raise ValueError("`attack.eps`: is empty, list at least one radius or pass one per image")
    radius = torch.as_tensor(attack.eps[0] if eps is None else eps, dtype=x.dtype, device=x.device)
    if not (radius >= 0).all():
        raise ValueError(f"`attack.eps`: got {radius.min().item()}, a radius is at least 0")
    return per_image(radius.expand(len(x)), x).clamp_min(1e-12)


def refuse_radius(name: str, eps: Any) -> None:
    """Raises ValueError if an attack that looks for the smallest distance is given a radius `eps`."""
    if eps is not None:
        raise ValueError(f"`{name}` looks for the smallest distance: it takes no `eps`")


@contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Inside the context, random numbers on the CPU and on `device` come from `seed`; afterwards the global random
    stream goes on as if nothing had been drawn. With seed None, random numbers come from the global stream.
    """
    cuda = [device.index] if device.type == "cuda" else []
    with torch.random.fork_rng(cuda, enabled=seed is not None):
        if seed is not None:
            (torch.cuda.default_generators[cuda[0]] if cuda else torch.default_generator).manual_seed(seed)
        yield
