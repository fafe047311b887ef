"""AllCNN-C (Springenberg et al., 2015), a network of convolutions only, as TULIP's authors train it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lipcert.models.headed import Headed
from lipcert.models.tulip import check_width, convolution, squashed


class AllCNN(Headed):
    """Three 3×3 convolutions of `width` channels and five of 2·`width`, of which the third and the sixth halve the
    image; a 1×1 convolution to one channel per class, also normalised, and its mean over all positions. There is no
    dropout.

    The eighth convolution is 3×3 as in the authors' code (1×1 in Springenberg et al.). `tanh` appends t·tanh(z/t).
    """

    def __init__(self, *, input_shape: Sequence[int], num_classes: int, width: int = 96, tanh: bool = False):
        check_width(width)
        wide, channels, layers = 2 * width, input_shape[0], []
        widths, strides = [width] * 3 + [wide] * 5, (1, 1, 2, 1, 1, 2, 1, 1)
        for outputs, stride in zip(widths, strides, strict=True):
            layers += convolution(channels, outputs, 3, stride=stride)
            channels = outputs
        classify = convolution(channels, num_classes, 1, relu=False)
        head = nn.Sequential(*classify, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        super().__init__(nn.Sequential(*layers), squashed(head, num_classes, tanh))
