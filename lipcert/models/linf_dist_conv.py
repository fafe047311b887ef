"""The convolutional l_inf-distance net with a perceptron as its head (Zhang et al., ICML 2021, Tables 8 and 9)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lipcert.layers import DistanceConv2d, DistanceLinear, Standardise, SubtractMean
from lipcert.models.linf_dist_mlp import DistanceTrunk
from lipcert.models.sizes import check_sizes


class LinfDistConv(DistanceTrunk):
    """A 3×3 distance convolution for each entry of `channels` (those in `halving` with stride 2) and a distance layer
    of `width`, each followed by the subtraction of its mean; a linear layer of `hidden` units with tanh; a linear
    layer.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        channels: Sequence[int] = (128, 128, 256, 256, 256),
        halving: Sequence[int] = (2,),
        width: int = 512,
        hidden: int = 512,
        identity: bool = True,
        mean: Sequence[float] = (0.0,),
        std: float = 1.0,
    ):
        check_sizes(channels=channels, width=width, hidden=hidden)
        if any(not 0 <= at < len(channels) for at in halving):
            raise ValueError(f"`model.halving` must name convolutions 0 to {len(channels) - 1}, got {list(halving)}")
        inputs, height, breadth = input_shape
        layers: list[nn.Module] = [Standardise(mean, [std])]
        for i, outputs in enumerate(channels):
            stride = 2 if i in halving else 1
            start = identity and inputs <= outputs
            layers += [DistanceConv2d(inputs, outputs, 3, stride, 1, identity=start), SubtractMean(outputs)]
            inputs, height, breadth = outputs, (height - 1) // stride + 1, (breadth - 1) // stride + 1
        layers += [nn.Flatten(), DistanceLinear(inputs * height * breadth, width), SubtractMean(width)]
        super().__init__(nn.Sequential(*layers), width, hidden, num_classes, std)
