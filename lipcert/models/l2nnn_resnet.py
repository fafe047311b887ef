"""A pre-activation ResNet-20 of nonexpansive blocks, with a sound bound (L2NNN, A.3)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lipcert.layers import ConvexResidual, GlobalNormPool2d, NonexpansiveConv2d, Residual, UnitRowsLinear
from lipcert.models.headed import Headed, check_halvings
from lipcert.models.l2nnn_steps import Steps
from lipcert.models.sizes import check_sizes


class L2NNNResNet(Headed):
    """A 3×3 convolution; stages of `blocks` residual blocks, between which the image is halved; norm-pooling over all
    positions; a linear layer with rows of norm 1.

    It is the poster's network with a valid bound: the split is scaled as well as the merge (eq. 9), and an entry counts
    ⌈K/S⌉ times along an axis. It is trained with the L2NNN loss. With residual="convex", blocks are instead t times the
    input plus (1 − t) times the rest (eq. 11). t is one number per block, or of split blocks one per channel or entry.

    Raises ValueError where the options do not fit each other or the image.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        channels: Sequence[int] = (16, 32, 64),
        blocks: Sequence[int] = (3, 3, 3),
        residual: str = "split",
        t: float = 0.5**0.5,
        per_channel: bool = False,
        per_entry: bool = False,
        activation: str = "two_sided_relu",
        activation_t: str = "channel",
        subtract_mean: bool = False,
        divide: bool = True,
        gram: str = "smaller",
    ):
        if len(channels) != len(blocks):
            given = f"{len(channels)} and {len(blocks)}"
            raise ValueError(f"`model.channels` and `model.blocks` must have one entry per stage, got {given}")
        check_sizes(channels=channels)
        check_sizes(0, blocks=blocks)
        check_halvings(input_shape, len(channels) - 1, "stages")
        check_residual(residual, t, per_channel, per_entry)
        steps = Steps(activation=activation, activation_t=activation_t, subtract_mean=subtract_mean)

        def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> NonexpansiveConv2d:
            return NonexpansiveConv2d(
                inputs, outputs, kernel, stride, kernel // 2, bias=False, gram=gram, divide=divide
            )

        def block(inputs: int, outputs: int, stride: int, sides: Sequence[int]) -> nn.Module:
            smaller = [(side - 1) // stride + 1 for side in sides]
            enter, widened = steps.behind(inputs, *sides)
            inner, middle = steps.behind(outputs, *smaller)
            body = nn.Sequential(*enter, conv(widened, outputs, 3, stride), *inner, conv(middle, outputs, 3))
            shortcut = None
            if stride > 1 or inputs != outputs:
                first, widened = steps.behind(inputs, *sides)
                shortcut = nn.Sequential(*first, conv(widened, outputs, 1, stride))
            if residual == "convex":
                return ConvexResidual(body, t, shortcut)
            if per_entry:
                return Residual(body, shortcut, t, inputs, outputs, sides, smaller)
            return Residual(body, shortcut, t, *((inputs, outputs) if per_channel else ()))

        width, sides = channels[0], list(input_shape[1:])
        layers: list[nn.Module] = [conv(input_shape[0], width, 3)]
        for stage, (outputs, count) in enumerate(zip(channels, blocks, strict=True)):
            for i in range(count):
                stride = 2 if stage and not i else 1
                layers.append(block(width, outputs, stride, sides))
                width, sides = outputs, [(side - 1) // stride + 1 for side in sides]
        last, width = steps.behind(width, *sides)
        layers += [*last, GlobalNormPool2d()]
        super().__init__(nn.Sequential(*layers), UnitRowsLinear(width, num_classes, gram=gram))


def check_residual(residual: str, t: float, per_channel: bool, per_entry: bool) -> None:
    """Raises ValueError for choices of a block's sum that do not fit each other."""
    if residual not in ("split", "convex"):
        raise ValueError(f"`model.residual` must be split or convex, got {residual!r}")
    if per_channel and per_entry:
        raise ValueError("`model.per_entry` and `model.per_channel` are both true; set one of them to false")
    if residual == "convex" and (per_channel or per_entry):
        key = "per_channel" if per_channel else "per_entry"
        raise ValueError(
            f"`model.{key}` is true, but a convex sum with several t would expand; set `model.residual` to split, or "
            f"`model.{key}` to false"
        )
    if residual == "convex" and not 0 < t < 1:
        raise ValueError(f"`model.t` must lie between 0 and 1, without the ends, where residual=convex, got {t}")
