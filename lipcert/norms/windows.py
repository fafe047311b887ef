"""The entries of an image on which the windows of a convolution lie, for each axis."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

PerAxis = int | tuple[int, ...]  # one number for all spatial axes, or one per axis


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a zero-padded convolution.

    `size` is the image's, and `kernel` the number of taps. Tap t of window i lies on entry
    i·stride − padding + t·dilation of the image, or on the padding where the image has no such entry.
    """

    size: int
    kernel: int
    stride: int
    padding: int
    dilation: int

    @property
    def slack(self) -> int:
        """The number of windows with stride 1, minus 1; below 0 where no window fits."""
        return self.size + 2 * self.padding - (self.kernel - 1) * self.dilation - 1

    @property
    def outputs(self) -> int:
        """The number of windows."""
        return self.slack // self.stride + 1

    @cached_property
    def positions(self) -> Tensor:
        """The entry under each tap: integers (outputs, kernel)."""
        starts = torch.arange(self.outputs) * self.stride - self.padding
        return starts[:, None] + self.dilation * torch.arange(self.kernel)

    @cached_property
    def seen(self) -> Tensor:
        """Whether tap t of window i lies on the image: (outputs, kernel)."""
        return (self.positions >= 0) & (self.positions < self.size)

    @cached_property
    def reached(self) -> Tensor:
        """Whether tap t of some window lies on entry y: (size, kernel). There is at most one such window."""
        starts = torch.arange(self.size)[:, None] + self.padding - self.dilation * torch.arange(self.kernel)
        return (starts >= 0) & (starts <= self.slack) & (starts % self.stride == 0)

    @property
    def overlap(self) -> int:
        """The largest number of windows that contain one entry."""
        return int(self.reached.sum(1).max())


def axes_of(weight: Tensor, stride: PerAxis, padding: PerAxis, size: tuple[int, ...], dilation: PerAxis) -> list[Axis]:
    """The spatial axes of a convolution with the kernel `weight` (C_out, C_in, *k) on images of `size`.

    Raises ValueError where there is no such convolution.
    """
    count = axis_count(weight, size)
    strides, paddings, dilations = (
        per_axis(name, value, count)
        for name, value in (("stride", stride), ("padding", padding), ("dilation", dilation))
    )
    axes = [Axis(*a) for a in zip(size, weight.shape[2:], strides, paddings, dilations, strict=True)]
    for a in axes:
        if a.stride < 1 or a.dilation < 1 or a.padding < 0:
            given = f"{a.stride}, {a.padding}, {a.dilation}"
            raise ValueError(f"`stride`, `padding`, `dilation` are {given}; they must be at least 1, 0, 1")
        if a.slack < 0 or a.size < 1:
            extent = (a.kernel - 1) * a.dilation + 1
            raise ValueError(
                f"`size` {a.size} with padding {a.padding} is below the kernel's extent {extent}: pad more"
            )
    return axes


def axis_count(weight: Tensor, size: tuple[int, ...]) -> int:
    """The number of spatial axes. Raises ValueError unless `weight` and `size` agree on 1 to 3."""
    count = len(size)
    if not 1 <= count <= 3 or weight.dim() != count + 2:
        shape = ", ".join(["C_out", "C_in", *"k" * count])
        raise ValueError(
            f"`weight` has shape {tuple(weight.shape)} and `size` is {tuple(size)}: a convolution has 1 to 3 spatial "
            f"axes, and on images of {count} its weight is ({shape})"
        )
    return count


def per_axis(name: str, value: PerAxis, count: int) -> tuple[int, ...]:
    """`value` as a tuple of `count` numbers. Raises ValueError where it has another number of them."""
    values = (value,) * count if isinstance(value, int) else tuple(value)
    if len(values) != count:
        raise ValueError(f"`{name}` is {values}: give one number, or one for each of the {count} spatial axes")
    return values
