"""Folding: the plain network that a constrained one computes, whose weights alone are then measured and certified."""

from __future__ import annotations

import copy

from torch import nn


def fold(model: nn.Module) -> nn.Module:
    """A copy of `model` in which every layer with a `fold()` is replaced by the plain layer it computes.

    Fold after converting to float64: then what is certified is exactly what is evaluated, and costs what a plain network
    costs. A plain layer remembers in `claim` the norm that its scheme promised.
    """
    model = copy.deepcopy(model)
    if hasattr(model, "fold"):
        return model.fold()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if hasattr(child, "fold"):
                setattr(parent, name, child.fold())
    return model
