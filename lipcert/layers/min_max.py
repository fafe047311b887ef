"""MinMax, which sorts pairs of channels: an activation that preserves gradients (Anil, Lucas & Grosse, ICML 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MinMax(nn.Module):
    """(x, y) ↦ (max, min) of channel i and channel i + C/2, for every i; C is even.

    It permutes the entries of each point, so that it is nonexpansive in every l_p and does not round.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] % 2:  # chunks of 2 and 1 channels would broadcast
            raise ValueError(f"MinMax sorts pairs of channels, got {x.shape[1]} channels, an odd number")
        first, second = x.chunk(2, 1)
        return torch.cat([torch.maximum(first, second), torch.minimum(first, second)], 1)
