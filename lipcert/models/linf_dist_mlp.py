"""l_inf-distance net with a perceptron as its head, for interval propagation (Zhang et al., ICML 2021, §5.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lipcert.contracts import Norm
from lipcert.layers import ScaledLinear, Standardise
from lipcert.models.headed import Headed
from lipcert.models.linf_dist import default_depth, distance_layers
from lipcert.models.sizes import check_sizes


class DistanceTrunk(Headed):
    """logits = linear(tanh(linear(trunk(x)))); the trunk of distance layers is (`unit` = 1/std)-Lipschitz."""

    norm = Norm.LINF

    def __init__(self, trunk: nn.Module, width: int, hidden: int, num_classes: int, std: float):
        perceptron = nn.Sequential(ScaledLinear(width, hidden), nn.Tanh())
        super().__init__(nn.Sequential(trunk, perceptron), ScaledLinear(hidden, num_classes))
        self.features: nn.Sequential
        self.unit = 1 / std

    @property
    def enclosed(self) -> nn.Module:
        """The part through which boxes are propagated: everything after the trunk."""
        return nn.Sequential(self.features[1], self.head)

    def enclosure(self, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """The trunk's value at x, and the lower and upper ends of a box around it; all (B, width).

        At p = ∞ the box contains the values at all images within eps of x; at a finite p, in training, it may not.
        """
        z = self.features[0](x)
        return z, z - eps * self.unit, z + eps * self.unit


class LinfDistMLP(DistanceTrunk):
    """`depth` distance layers of `width` neurons; a linear layer of `hidden` units with tanh; a linear layer. Both
    linear layers have the NTK parametrisation.

    `depth` null is 4 for images up to 28×28 and 5 for larger ones (the paper's `width` is 5120).
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        depth: int | None = None,
        width: int = 512,
        hidden: int = 512,
        identity: bool = True,
        mean: Sequence[float] = (0.0,),
        std: float = 1.0,
    ):
        check_sizes(depth=depth, width=width, hidden=hidden)
        depth = depth or default_depth(input_shape) - 1
        layers = distance_layers(torch.Size(input_shape).numel(), [width] * depth, identity)
        trunk = nn.Sequential(Standardise(mean, [std]), nn.Flatten(), *layers)
        super().__init__(trunk, width, hidden, num_classes, std)
