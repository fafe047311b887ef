"""What follows the linear maps of an L2NNN: subtraction of the batch's mean, a nonlinearity, pooling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from lipcert.layers import SubtractMean, nonlinearity, pooling
from lipcert.models.headed import check_halvings
from lipcert.models.sizes import check_sizes


def convolved(kernel: int, *sides: int) -> tuple[int, ...]:
    """The sides of an image after a convolution with a padding of kernel/2, rounded down."""
    return tuple(side + 1 - kernel % 2 for side in sides)


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The choices of a network, which all of its layers share; none of them expands, except overlapping max-pooling.

    activation     the name of a nonlinearity
    activation_t   what has a t of its own in a sigmoid or tanh: channel, neuron or layer
    subtract_mean  whether the mean of the batch is subtracted before each nonlinearity (Qian & Wegman, ICLR 2019, A.5);
                   it takes the place of the bias, which it would cancel
    pooling        norm or max, of windows of `pool_size` pixels, `pool_stride` apart (None: as many as `pool_size`)
    """

    activation: str = "two_sided_relu"
    activation_t: str = "channel"
    subtract_mean: bool = False
    pooling: str = "norm"
    pool_size: int = 2
    pool_stride: int | None = None

    @property
    def bias(self) -> bool:
        return not self.subtract_mean

    def behind(self, *shape: int, groups: int = 1) -> tuple[list[nn.Module], int]:
        """The modules for values of this shape, and the number of outputs per group in place of the features.

        The shape is (n,) of a linear map, (K, n) of K branches, or (C, H, W) of an image with C/groups features.
        """
        branches = len(shape) == 2
        features, dim = (shape[1], 2) if branches else (shape[0] // groups, 1)
        step, outputs = nonlinearity(self.activation, features, dim, groups, self.activation_t, shape)
        mean = [SubtractMean(shape if branches else shape[0])] if self.subtract_mean else []
        return [*mean, step], outputs

    def pool(self) -> nn.Module:
        return pooling(self.pooling, self.pool_size, self.pool_stride)

    def pooled(self, *sides: int) -> tuple[int, ...]:
        """The sides of an image after pooling."""
        return tuple((side - self.pool_size) // (self.pool_stride or self.pool_size) + 1 for side in sides)

    def check(self, input_shape: Sequence[int], poolings: int) -> None:
        """Raises ValueError where so many poolings leave nothing of images (C, H, W)."""
        check_sizes(pool_size=self.pool_size, pool_stride=self.pool_stride)
        if self.pool_size == 2 == (self.pool_stride or 2):
            return check_halvings(input_shape, poolings)
        sides = tuple(input_shape[1:])
        for _ in range(poolings):
            if min(sides) < self.pool_size:
                raise ValueError(
                    f"`model.pool_size`: {poolings} times pooling by windows of {self.pool_size} does not leave "
                    f"anything of {tuple(input_shape)}; give smaller windows or fewer `model.channels`"
                )
            sides = self.pooled(*sides)
        return None
