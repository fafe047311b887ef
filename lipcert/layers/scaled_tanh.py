"""A smooth limit on the size of logits, which TULIP puts before the softmax."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ScaledTanh(nn.Module):
    """x ↦ t·tanh(x/t) in each entry, with one trainable t > 0: 1-Lipschitz, and within ±t.

    t = softplus(raw), which is 1 at first (Finlay, Oberman & Abbasi, 2018, appendix A.1).
    """

    def __init__(self):
        super().__init__()
        self.raw = nn.Parameter(torch.tensor(math.log(math.e - 1)))

    @property
    def t(self) -> Tensor:
        return F.softplus(self.raw)

    def forward(self, x: Tensor) -> Tensor:
        return self.t * torch.tanh(x / self.t)
