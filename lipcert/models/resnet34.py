"""The ResNet with 34 layers of TULIP's tables: its ResNeXt with one branch and half the width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from lipcert.models.tulip_resnext import TulipResNeXt


class ResNet34(TulipResNeXt):
    """Basic blocks of 16, 32 and 64 channels, about 0.49 million weights; the arguments are those of TulipResNeXt."""

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        depth: int = 34,
        width: int = 16,
        tanh: bool = False,
        head_normalisation: bool = False,
        head_relu: bool = False,
        pooling: Literal["before_blocks", "after_first_block"] = "before_blocks",
        trained_scale: bool = False,
    ):
        super().__init__(
            input_shape=input_shape,
            num_classes=num_classes,
            depth=depth,
            width=width,
            branches=1,
            tanh=tanh,
            head_normalisation=head_normalisation,
            head_relu=head_relu,
            pooling=pooling,
            trained_scale=trained_scale,
        )
