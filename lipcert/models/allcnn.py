"""AllCNN-C (Springenberg et al., 2015): nothing but convolutions, as TULIP's authors train it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lipcert.models.headed import Headed
from lipcert.models.tulip import check_width, convolution, squashed


class AllCNN(Headed):
    """Three 3×3 convolutions of `width` channels and five of 2·`width`, the third and the sixth halving the image; a
    1×1 convolution to one channel a class, normalised too, and its mean over all positions. Without dropout.

    The eighth is 3×3 as in the authors' code (1×1 in Springenberg et al.). `tanh` puts t·tanh(z/t) behind.
    """

    def __init__(self, *, input_shape: Sequence[int], num_classes: int, width: int = 96, tanh: bool = False):
        check_width(width)
        wide, channels, layers = 2 * width, input_shape[0], []
        for outputs, stride in (
            (width, 1),
            (width, 1),
            (width, 2),
            (wide, 1),
            (wide, 1),
            (wide, 2),
            (wide, 1),
            (wide, 1),
        ):
            layers += convolution(channels, outputs, 3, stride=stride)
            channels = outputs
        classify = convolution(channels, num_classes, 1, relu=False)
        head = nn.Sequential(*classify, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        super().__init__(nn.Sequential(*layers), squashed(head, num_classes, tanh))
