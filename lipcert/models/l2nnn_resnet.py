"""The ResNet form: pre-activation ResNet-20 of nonexpansive blocks, made sound (L2NNN, A.3)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lipcert.layers import GlobalNormPool2d, NonexpansiveConv2d, Residual, UnitRowsLinear, nonlinearity
from lipcert.models.headed import Headed


class L2NNNResNet(Headed):
    """conv3×3; stages of `blocks` residual blocks, halving the image between stages; norm-pool of the whole map; unit
    rows. The poster's network, with what its bound left out: the split is scaled as well as the merge (eq. 9), a window
    counts ⌈K/S⌉ times, and it is trained by the L2NNN loss.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        channels: Sequence[int] = (16, 32, 64),
        blocks: Sequence[int] = (3, 3, 3),
        t: float = 0.5**0.5,
        per_channel: bool = False,
        activation: str = "two_sided_relu",
        divide: bool = True,
        gram: str = "smaller",
    ):
        if len(channels) != len(blocks):
            raise ValueError(
                f"`model.channels` and `model.blocks` must have one entry a stage, got {len(channels)} and "
                f"{len(blocks)}"
            )
        if min(input_shape[1:]) < 2 ** (len(channels) - 1):
            raise ValueError(
                f"`model.channels` halves the image {len(channels) - 1} times, which {tuple(input_shape)} "
                "does not survive; give fewer stages"
            )

        def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> NonexpansiveConv2d:
            return NonexpansiveConv2d(
                inputs, outputs, kernel, stride, kernel // 2, bias=False, gram=gram, divide=divide
            )

        def block(inputs: int, outputs: int, stride: int) -> Residual:
            enter, widened = nonlinearity(activation, inputs)
            inner, middle = nonlinearity(activation, outputs)
            body = nn.Sequential(enter, conv(widened, outputs, 3, stride), inner, conv(middle, outputs, 3))
            shortcut = None
            if stride > 1 or inputs != outputs:
                first, widened = nonlinearity(activation, inputs)
                shortcut = nn.Sequential(first, conv(widened, outputs, 1, stride))
            return Residual(body, shortcut, t, *((inputs, outputs) if per_channel else ()))

        width = channels[0]
        layers: list[nn.Module] = [conv(input_shape[0], width, 3)]
        for stage, (outputs, count) in enumerate(zip(channels, blocks, strict=True)):
            for i in range(count):
                layers.append(block(width, outputs, 2 if stage and not i else 1))
                width = outputs
        last, width = nonlinearity(activation, width)
        layers += [last, GlobalNormPool2d()]
        super().__init__(nn.Sequential(*layers), UnitRowsLinear(width, num_classes, gram=gram))
