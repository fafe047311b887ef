"""Every random choice about data: streams that are pure functions of their key, and fair orders of a labelled set."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def stream(seed: int, *key: int) -> torch.Generator:
    """A CPU generator that depends on nothing but non-negative `seed` and `key`, so that any process can rebuild it."""
    state = np.random.SeedSequence([seed, *key]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def in_proportion(labels: Tensor, generator: torch.Generator) -> Tensor:
    """A random order of the images whose every prefix holds each class in about its share. labels (N,) -> (N,)."""
    order, rank, size = _ranked(labels, generator)
    return order[torch.argsort((rank + 0.5) / size, stable=True)]


def in_turns(labels: Tensor, generator: torch.Generator) -> Tensor:
    """A random order of the images whose every prefix holds all classes equally, within one image, until one runs out.

    Prefixes are nested: with one seed, a larger subset contains the smaller. labels (N,) -> (N,).
    """
    order, rank, _ = _ranked(labels, generator)
    return order[torch.argsort(rank, stable=True)]


def _ranked(labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A random order, and for each place in it: how many of its class came before, and how many the class has."""
    order = torch.randperm(len(labels), generator=generator)
    shuffled = labels[order]
    by_class = torch.argsort(shuffled, stable=True)
    size = torch.bincount(shuffled)
    first = size.cumsum(0) - size
    rank = torch.empty_like(order)
    rank[by_class] = torch.arange(len(labels)) - first[shuffled[by_class]]
    return order, rank, size[shuffled].to(torch.float64)
