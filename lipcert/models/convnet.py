"""The ordinary 4-layer network of Madry et al. (ICLR 2018), with which L2NNNs are compared."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lipcert.models.headed import Headed, check_halvings
from lipcert.models.sizes import check_sizes


class ConvNet(Headed):
    """Twice a 5×5 convolution, ReLU and max-pooling; a linear layer and ReLU; a linear layer.

    Weights start truncated normal with standard deviation 0.1, biases 0.1.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        channels: Sequence[int] = (32, 64),
        hidden: int = 1024,
        dropout: float = 0.0,
    ):
        check_sizes(channels=channels, hidden=hidden)
        check_halvings(input_shape, len(channels))
        width, height, breadth = input_shape
        layers: list[nn.Module] = []
        for out in channels:
            layers += [nn.Conv2d(width, out, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
            width, height, breadth = out, height // 2, breadth // 2
        layers += [nn.Flatten(), nn.Linear(width * height * breadth, hidden), nn.ReLU(), nn.Dropout(dropout)]
        super().__init__(nn.Sequential(*layers), nn.Linear(hidden, num_classes))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.trunc_normal_(parameter, std=0.1, a=-0.2, b=0.2)
            else:
                nn.init.constant_(parameter, 0.1)
