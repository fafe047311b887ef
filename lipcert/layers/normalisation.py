"""Normalisations for networks with a bound: they subtract, or divide by constants that the bound counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.nn import functional as distributed


class SubtractMean(nn.Module):
    """Subtracts each feature's (channel's) mean: the batch's in training, the running mean in evaluation.

    This is A.5 of L2NNN and the mean-shift normalisation of l_inf-distance nets (Zhang et al., ICML 2021, §5.1). With
    several ranks it is the mean of the global batch, so that N ranks compute what one rank would.

    `features` is the size of the axis after the batch, or the sizes of several such axes: (K, n) for the values of K
    branches. `momentum` is the share of a new batch in the running mean. In evaluation it is a shift, of constant 1.
    """

    def __init__(self, features: int | tuple[int, ...], momentum: float = 0.1):
        super().__init__()
        self.momentum = momentum
        self.running_mean: Tensor
        self.register_buffer("running_mean", torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        own = self.running_mean.dim()
        axes = [0, *range(own + 1, x.dim())]
        if self.training:
            mean = x.mean(axes)
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                mean = distributed.all_reduce(mean) / torch.distributed.get_world_size()
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        else:
            mean = self.running_mean
        return x - mean.view(1, *self.running_mean.shape, *[1] * (x.dim() - own - 1))


class Standardise(nn.Module):
    """(x − mean)/std per channel, the first layer of a network on standardised pixels; (1/min std)-Lipschitz."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std
