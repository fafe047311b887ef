"""Parseval networks (Cissé et al., ICML 2017), as LMT's authors compare with them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ParsevalConv2d(nn.Conv2d):
    """A convolution without bias, divided by √(kernel area). After every optimizer step `project` moves its rows
    towards orthonormal ones, W ← (1 + beta)·W − beta·WWᵀW, which does not keep its norm at 1: it is measured as any
    other.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0, beta: float = 1e-4):
        self.geometry = (kernel, stride, padding)
        super().__init__(inputs, outputs, *self.geometry, bias=False)
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight / self.weight[0, 0].numel() ** 0.5, None, self.stride, self.padding)

    @torch.no_grad()
    def project(self) -> None:
        w = self.weight.flatten(1)
        w.copy_(torch.addmm(w, w @ w.mT, w, beta=1 + self.beta, alpha=-self.beta))


class ConvexSum(nn.Module):
    """alpha_0·x + alpha_1·y with trainable alpha ≥ 0 of sum 1, which `project` restores after every optimizer step."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor([0.5, 0.5]))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.alpha[0] * x + self.alpha[1] * y

    @torch.no_grad()
    def project(self) -> None:
        first = ((1 + self.alpha[0] - self.alpha[1]) / 2).clamp(0, 1)
        self.alpha.copy_(torch.stack([first, 1 - first]))
