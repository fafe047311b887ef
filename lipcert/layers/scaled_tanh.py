"""A smooth limit on the size of logits: the layer that TULIP puts before the softmax."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ScaledTanh(nn.Module):
    """x ↦ t·tanh(x/t) in each entry, one trainable t > 0 for all: 1-Lipschitz, and never beyond ±t.

    Finlay, Oberman & Abbasi, 2018, appendix A.1. t = softplus(raw), which begins as 1.
    """

    def __init__(self):
        super().__init__()
        self.raw = nn.Parameter(torch.tensor(math.log(math.e - 1)))

    @property
    def t(self) -> Tensor:
        return F.softplus(self.raw)

    def forward(self, x: Tensor) -> Tensor:
        return self.t * torch.tanh(x / self.t)
