"""Spectral-norm regularisation (Yoshida & Miyato, 2017): cross-entropy, and the largest singular values of weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipcert.losses.accuracy import accuracy
from lipcert.norms import Matrices


class SpectralNorm(nn.Module):
    """CE + (rate/2)·Σ σ(W)², over all weights of two or more axes, each as a matrix (outputs, rest).

    The largest singular value σ comes from one step of power iteration at a time, on vectors that are kept from step to
    step. The penalty's gradient by W is rate·σ·uvᵀ.
    """

    def __init__(self, *, num_classes: int, rate: float = 0.01):
        super().__init__()
        if not 0 <= rate < float("inf"):
            raise ValueError(f"`loss.rate` must be at least 0, got {rate}")
        self.rate = rate

    def prepare(self, model: nn.Module, input_shape: tuple[int, ...]) -> None:
        for i, weight in enumerate(_weights(model)):
            start = torch.randn(1, weight.shape[1])
            self.register_buffer(f"vector{i}", start / start.norm())

    def forward(self, model: nn.Module, x: Tensor, y: Tensor) -> Mapping[str, Tensor]:
        logits = model(x).float()
        natural = F.cross_entropy(logits, y)
        penalty = natural.new_zeros(())
        for i, weight in enumerate(_weights(model)):
            vector: Any = self.get_buffer(f"vector{i}")
            sigma, following = Matrices(weight[None]).power_step(vector)
            vector.copy_(following)
            penalty = penalty + sigma.square().sum()
        terms = {"natural": natural, "penalty": penalty, "accuracy": accuracy(logits, y)}
        return {"loss": natural + self.rate / 2 * penalty, **terms}


def _weights(model: nn.Module) -> list[Tensor]:
    return [p.flatten(1) for p in model.parameters() if p.dim() > 1]
