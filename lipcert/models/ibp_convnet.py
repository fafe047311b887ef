"""An ordinary convolutional network, trained by interval propagation: the baseline of l_inf tables.

It is "Large" of Gowal et al. (ICCV 2019), with which the IBP and CROWN-IBP numbers were published.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lipcert.contracts import Norm
from lipcert.layers import Standardise
from lipcert.models.headed import Headed
from lipcert.models.sizes import check_sizes


class IBPConvNet(Headed):
    """3×3 convolutions (those in `halving` with stride 2) and a linear layer, all with ReLU; then a linear layer."""

    norm = Norm.LINF

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        channels: Sequence[int] = (64, 64, 128, 128, 128),
        halving: Sequence[int] = (2,),
        hidden: int = 512,
        mean: Sequence[float] = (0.0,),
        std: float = 1.0,
    ):
        check_sizes(channels=channels, hidden=hidden)
        if any(not 0 <= at < len(channels) for at in halving):
            raise ValueError(f"`model.halving` must name convolutions 0 to {len(channels) - 1}, got {list(halving)}")
        inputs, height, breadth = input_shape
        layers: list[nn.Module] = [Standardise(mean, [std])]
        for i, outputs in enumerate(channels):
            stride = 2 if i in halving else 1
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.ReLU()]
            inputs, height, breadth = outputs, (height - 1) // stride + 1, (breadth - 1) // stride + 1
        layers += [nn.Flatten(), nn.Linear(inputs * height * breadth, hidden), nn.ReLU()]
        super().__init__(nn.Sequential(*layers), nn.Linear(hidden, num_classes))

    @property
    def enclosed(self) -> nn.Module:
        """The part through which boxes are propagated: the whole network."""
        return self

    def enclosure(self, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """The images x, and the lower and upper ends of their boxes of radius eps in [0, 1]; all (B, C, H, W)."""
        return x, (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
