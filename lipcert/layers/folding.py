"""Folding: the plain network that a constrained one computes, whose weights alone are then measured and certified."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn


def fold(model: nn.Module) -> nn.Module:
    """A frozen copy of `model` in which every layer with a `fold()` is replaced by the plain layer it computes.

    Fold after converting to float64: then what is certified is exactly what is evaluated, and costs what a plain
    network costs. A plain layer remembers in `claim` the norm that its scheme promised.
    """
    top = nn.ModuleDict({"model": copy.deepcopy(model).requires_grad_(False)})
    for parent in list(top.modules()):
        for name, child in list(parent.named_children()):
            fold_child: Any = getattr(child, "fold", None)
            if fold_child is not None:
                setattr(parent, name, fold_child())
    return top["model"].train(model.training)
