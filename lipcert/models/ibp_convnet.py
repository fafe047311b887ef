"""An ordinary convolutional network, trained by interval propagation: the baseline of l_inf tables.

"Large" of Gowal et al. (ICCV 2019), the network behind the published IBP and CROWN-IBP numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lipcert.contracts import Norm
from lipcert.layers import Standardise
from lipcert.models.headed import Headed


class IBPConvNet(Headed):
    """3×3 convolutions and ReLU (those in `halving` with stride 2), FC to `hidden`, ReLU, FC to the classes."""

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
        """What the boxes of images are propagated through: all of it."""
        return self

    def enclosure(self, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """The image, and the box of images within eps of it."""
        return x, (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
