"""Normalisation that a network with a bound may use: it subtracts, and divides by what the bound then counts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.nn import functional as distributed

from lipcert.contracts import Norm, Signal
from lipcert.layers.intervals import outward

BOTH = (Norm.L2, Norm.LINF)


class SubtractMean(nn.Module):
    """Subtracts the batch's mean per feature (channel) in training, the running mean in evaluation (L2NNN, A.5; the
    mean-shift normalisation of l_inf-distance nets, Zhang et al., ICML 2021, §5.1).

    Under several ranks the mean is the global batch's, so that N ranks compute what one would.
    """

    norms = BOTH

    def __init__(self, features: int, momentum: float = 0.1):
        super().__init__()
        self.momentum = momentum
        self.running_mean: Tensor
        self.register_buffer("running_mean", torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        axes = [i for i in range(x.dim()) if i != 1]
        if self.training:
            mean = x.mean(axes)
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                mean = distributed.all_reduce(mean) / torch.distributed.get_world_size()
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        else:
            mean = self.running_mean
        return x - mean.view(1, -1, *[1] * (x.dim() - 2))

    def bound(self, signal: Signal, walk, name: str) -> Signal:
        return signal.after(offset=_length(self.running_mean, signal), roundings=1)

    def interval(self, low: Tensor, high: Tensor, unit: float) -> tuple[Tensor, Tensor]:
        return outward(self(low), self(high), unit)


class Standardise(nn.Module):
    """(x − mean)/std per channel: the first layer of a network trained on standardised pixels, Lipschitz 1/min std."""

    norms = BOTH

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std

    def bound(self, signal: Signal, walk, name: str) -> Signal:
        gain = float(1 / self.std.double().min()) * (1 + 1e-12)
        return signal.after(gain=gain, offset=_length((self.mean / self.std).flatten(), signal), roundings=2)

    def interval(self, low: Tensor, high: Tensor, unit: float) -> tuple[Tensor, Tensor]:
        return outward(self(low), self(high), 2 * unit)


def _length(entries: Tensor, signal: Signal) -> float:
    """The signal's norm of one number a channel, repeated over all positions; rounded up."""
    length = float(entries.double().norm(p=2 if signal.norm is Norm.L2 else torch.inf))
    positions = math.prod(signal.shape[1:]) if signal.norm is Norm.L2 else 1
    return length * math.sqrt(positions) * (1 + 1e-12)
