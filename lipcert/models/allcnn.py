"""AllCNN-C (Springenberg et al., 2015), a network of convolutions only, as TULIP's authors train it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lipcert.models.headed import Headed
from lipcert.models.sizes import check_sizes
from lipcert.models.tulip import convolution, squashed


class AllCNN(Headed):
    """Three 3×3 convolutions of `width` channels and five of 2·`width`, of which the third and the sixth halve the
    image; a 1×1 convolution to one channel per class, also normalised, and its mean over all positions. There is no
    dropout.

    eighth_kernel  the side of the eighth convolution: 3 as in the authors' code, 1 in Springenberg et al.
    last_relu      a ReLU behind the last convolution, as in the authors' first code
    tanh           appends t·tanh(z/t)

    Raises ValueError for a width below 1, and for an eighth convolution that is neither.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        width: int = 96,
        tanh: bool = False,
        last_relu: bool = False,
        eighth_kernel: int = 3,
    ):
        check_sizes(width=width)
        if eighth_kernel not in (1, 3):
            raise ValueError(f"`model.eighth_kernel` must be 1 or 3, got {eighth_kernel}")
        wide, channels, layers = 2 * width, input_shape[0], []
        widths, strides = [width] * 3 + [wide] * 5, (1, 1, 2, 1, 1, 2, 1, 1)
        for outputs, stride, kernel in zip(widths, strides, (3,) * 7 + (eighth_kernel,), strict=True):
            layers += convolution(channels, outputs, kernel, stride=stride)
            channels = outputs
        classify = convolution(channels, num_classes, 1, relu=last_relu)
        head = nn.Sequential(*classify, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        super().__init__(nn.Sequential(*layers), squashed(head, num_classes, tanh))
