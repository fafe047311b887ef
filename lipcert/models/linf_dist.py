"""l_inf-distance net: every neuron is a distance, the whole network 1-Lipschitz in l_inf (Zhang et al., ICML 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lipcert.contracts import Norm
from lipcert.layers import DistanceLinear, Negate, Standardise, SubtractMean
from lipcert.models.headed import Headed


def distance_layers(inputs: int, widths: Sequence[int], identity: bool) -> list[nn.Module]:
    """Distance layers, each before the subtraction of its mean; those that don't narrow start as identity maps."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [DistanceLinear(inputs, width, identity=identity and inputs <= width), SubtractMean(width)]
        inputs = width
    return layers


class LinfDist(Headed):
    """`depth` distance layers, all but the last of `width` neurons; the last gives each class the negated distance to
    its prototype. `depth` null: 5 for images up to 28×28, 6 for larger ones, as in the paper (where `width` is 5120).

    `mean` a channel and one `std` for all standardise the image; `unit` = 1/std then bounds how far a logit can move.
    """

    norm = Norm.LINF

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        depth: int | None = None,
        width: int = 512,
        identity: bool = True,
        mean: Sequence[float] = (0.0,),
        std: float = 1.0,
    ):
        depth = depth or default_depth(input_shape)
        if depth < 2:
            raise ValueError(f"`model.depth` must be at least 2, got {depth}")
        pixels = torch.Size(input_shape).numel()
        hidden = distance_layers(pixels, [width] * (depth - 1), identity)
        features = nn.Sequential(Standardise(mean, [std]), nn.Flatten(), *hidden)
        super().__init__(features, nn.Sequential(DistanceLinear(width, num_classes, bias=True), Negate()))
        self.unit = 1 / std


def default_depth(input_shape: Sequence[int]) -> int:
    return 5 if max(input_shape[1:]) <= 28 else 6
