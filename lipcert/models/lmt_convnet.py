"""The small convolutional network of Wong & Kolter (ICML 2018), which LMT and GloRo use for MNIST."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lipcert.layers import MinMax
from lipcert.models.headed import Headed
from lipcert.models.sizes import check_sizes

ACTIVATIONS = {"relu": nn.ReLU, "min_max": MinMax}


class LMTConvNet(Headed):
    """Convolutions of the given channels, kernels and strides (padding 1) and linear layers of `hidden` units, each
    followed by an activation; then a linear layer. Convolutions start He-normal, linear layers LeCun-normal.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        channels: Sequence[int] = (16, 32),
        kernels: Sequence[int] = (4, 4),
        strides: Sequence[int] = (2, 2),
        hidden: Sequence[int] = (100,),
        activation: str = "relu",
    ):
        if not len(channels) == len(kernels) == len(strides):
            given = f"{len(channels)}, {len(kernels)} and {len(strides)}"
            raise ValueError(f"`model.channels`, `kernels` and `strides` must have one entry per layer, got {given}")
        check_sizes(channels=channels, kernels=kernels, strides=strides, hidden=hidden)
        if activation not in ACTIVATIONS:
            raise ValueError(f"`model.activation` must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        if activation == "min_max" and any(n % 2 for n in (*channels, *hidden)):
            given = f"{list(channels)} and {list(hidden)}"
            raise ValueError(f"`model.channels` and `model.hidden` must be even for min_max, got {given}")
        inputs, *sides = input_shape
        layers: list[nn.Module] = []
        for outputs, kernel, stride in zip(channels, kernels, strides, strict=True):
            layers += [nn.Conv2d(inputs, outputs, kernel, stride, 1), ACTIVATIONS[activation]()]
            inputs, sides = outputs, [(n + 2 - kernel) // stride + 1 for n in sides]
        if min(sides) < 1:
            raise ValueError(f"`model.channels`: {len(channels)} layers leave nothing of {(*input_shape,)}; give fewer")
        layers.append(nn.Flatten())
        width = inputs * sides[0] * sides[1]
        for units in hidden:
            layers += [nn.Linear(width, units), ACTIVATIONS[activation]()]
            width = units
        super().__init__(nn.Sequential(*layers), nn.Linear(width, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu" if module.weight.dim() > 2 else "linear")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
