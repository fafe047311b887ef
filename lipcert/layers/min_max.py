"""MinMax: sorts pairs of channels, the activation that loses no gradient (Anil, Lucas & Grosse, ICML 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MinMax(nn.Module):
    """(x, y) ↦ (max, min) of channel i and channel i + C/2, for every i; C is even. A permutation at every point:
    nonexpansive in every l_p, and exact.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] % 2:  # chunks of 2 and 1 channels would broadcast
            raise ValueError(f"MinMax sorts pairs of channels, got {x.shape[1]} channels, an odd number")
        first, second = x.chunk(2, 1)
        return torch.cat([torch.maximum(first, second), torch.minimum(first, second)], 1)
