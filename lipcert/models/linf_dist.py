"""The l_inf-distance net, whose neurons are distances: 1-Lipschitz in l_inf as a whole (Zhang et al., ICML 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lipcert.contracts import Norm
from lipcert.layers import DistanceLinear, Negate, Standardise, SubtractMean
from lipcert.models.headed import Headed
from lipcert.models.sizes import check_sizes


def distance_layers(inputs: int, widths: Sequence[int], identity: bool) -> list[nn.Module]:
    """Distance layers, each followed by the subtraction of its mean; with `identity`, those that can start so."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [DistanceLinear(inputs, width, identity=identity and inputs <= width), SubtractMean(width)]
        inputs = width
    return layers


class LinfDist(Headed):
    """`depth` distance layers of `width` neurons, except the last, whose outputs are the negated distances to one
    prototype per class. `depth` null is 5 for images up to 28×28 and 6 for larger ones (the paper's `width` is 5120).

    The image is standardised by one `mean` per channel and one `std`; each logit is then (`unit` = 1/std)-Lipschitz.
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
        check_sizes(2, depth=depth)
        check_sizes(width=width)
        depth = depth or default_depth(input_shape)
        pixels = torch.Size(input_shape).numel()
        hidden = distance_layers(pixels, [width] * (depth - 1), identity)
        features = nn.Sequential(Standardise(mean, [std]), nn.Flatten(), *hidden)
        super().__init__(features, nn.Sequential(DistanceLinear(width, num_classes, bias=True), Negate()))
        self.unit = 1 / std


def default_depth(input_shape: Sequence[int]) -> int:
    return 5 if max(input_shape[1:]) <= 28 else 6
