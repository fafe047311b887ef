"""Random choices about data: generators that are pure functions of their keys, and orders that balance the classes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def stream(seed: int, *key: int) -> torch.Generator:
    """A CPU generator that `seed` and `key`, integers from 0, fix: any process can make the same."""
    state = np.random.SeedSequence([seed, *key]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def in_proportion(labels: Tensor, generator: torch.Generator) -> Tensor:
    """A random order of images, int64 (N,). In every prefix each class has about its share of `labels` (N,)."""
    order, rank, size = _ranked(labels, generator)
    return order[torch.argsort((rank + 0.5) / size, stable=True)]


def in_turns(labels: Tensor, generator: torch.Generator) -> Tensor:
    """A random order of images, int64 (N,). In every prefix all classes of `labels` (N,) are equally frequent.

    They differ by at most one image until a class has no more. With one seed, a larger subset contains a smaller one.
    """
    order, rank, _ = _ranked(labels, generator)
    return order[torch.argsort(rank, stable=True)]


def _ranked(labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A random order, and for each image in it: how many of its class come before, and how many there are."""
    order = torch.randperm(len(labels), generator=generator)
    shuffled = labels[order]
    by_class = torch.argsort(shuffled, stable=True)
    size = torch.bincount(shuffled)
    first = size.cumsum(0) - size
    rank = torch.empty_like(order)
    rank[by_class] = torch.arange(len(labels)) - first[shuffled[by_class]]
    return order, rank, size[shuffled].to(torch.float64)
