"""Convolutions and transposed convolutions with 1, 2 or 3 spatial axes, as operators (see `operators.Operator`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lipcert.contracts import Norm
from lipcert.norms.convolution import convolution_norm, convolution_sum_norm, overlap
from lipcert.norms.power import MatrixStep, normalised
from lipcert.norms.windows import PerAxis, axes_of, axis_count, per_axis

_CONVOLVE: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSE: dict[int, Any] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@dataclass(frozen=True)
class Convolution:
    """A zero-padded convolution of images with 1, 2 or 3 spatial axes: `weight` is (C_out, C_in/groups, *k).

    `size` is the spatial size of the input; `stride`, `padding` and `dilation` are one number, or one per axis.
    """

    weight: Tensor
    size: tuple[int, ...]
    stride: PerAxis = 1
    padding: PerAxis = 0
    dilation: PerAxis = 1
    groups: int = 1

    @classmethod
    def of(cls, module: Any, size: tuple[int, ...]) -> Convolution:
        """An nn.Conv1d, nn.Conv2d or nn.Conv3d, whose padding is of zeros and given in numbers, without its bias."""
        return cls(module.weight, size, module.stride, module.padding, module.dilation, module.groups)

    @property
    def geometry(self) -> tuple[PerAxis, PerAxis, tuple[int, ...], PerAxis]:
        """The arguments after the weight of the functions in `norms.convolution`."""
        return self.stride, self.padding, self.size, self.dilation

    @property
    def domain(self) -> tuple[int, ...]:
        return (self.groups * self.weight.shape[1], *self.size)

    @property
    def fan_in(self) -> int:
        return self.weight[0].numel()

    def matrices(self) -> Tensor:
        return self.weight.detach().double().reshape(self.groups, -1, self.fan_in)

    def tiles(self) -> int:
        return overlap(self.weight, *self.geometry)

    def scaled(self, rows: Tensor) -> Convolution:
        return replace(self, weight=self.weight * rows.view(-1, *[1] * (self.weight.dim() - 1)))

    def norms(self, norm: Norm) -> Tensor:
        if norm is not Norm.L2:
            return convolution_sum_norm(norm, self.weight, *self.geometry, self.groups)
        return torch.stack([convolution_norm(kernel, *self.geometry) for kernel in self.weight.chunk(self.groups)])

    def apply(self, u: Tensor) -> Tensor:
        convolve = _CONVOLVE[len(self.size)]
        return convolve(u, self.weight, None, self.stride, self.padding, self.dilation, self.groups)

    def transpose(self, v: Tensor) -> Tensor:
        rest = tuple(a.slack % a.stride for a in axes_of(self.weight, *self.geometry))  # entries behind the last window
        transpose = _TRANSPOSE[len(self.size)]
        return transpose(v, self.weight, None, self.stride, self.padding, rest, self.groups, self.dilation)

    def power_step(self, u: Tensor) -> tuple[Tensor, Tensor]:
        if len(self.size) != 2:
            return _power_step(self, u)
        tiling = {"dilation": self.dilation, "padding": self.padding, "stride": self.stride}
        kernel = self.weight.shape[2:]
        columns = F.unfold(u[None], kernel, **tiling).view(self.groups, self.fan_in, -1)  # one column per window
        sigma, back = MatrixStep.apply(self.weight, columns)
        following = F.fold(back.view(1, -1, back.shape[-1]), self.size, kernel, **tiling)
        return sigma, normalised(following.view(self.groups, -1)).view(self.domain)


@dataclass(frozen=True)
class TransposedConvolution:
    """x ↦ F.conv_transposeNd(x, weight, None, stride, padding, output_padding, groups, dilation) with 1 to 3 axes.

    `weight` is (C_in, C_out/groups, *k), and `size` the spatial size of the input. The map is the transpose of its
    `adjoint`, the zero-padded convolution with the same weight on images of the output's size. So the two have equal l2
    norms, and the l1 norms of one are the l_inf norms of the other.

    Raises ValueError where the output has no entries, and where the output of that convolution does not have `size`,
    because `output_padding` is not below the stride.
    """

    weight: Tensor
    size: tuple[int, ...]
    stride: PerAxis = 1
    padding: PerAxis = 0
    dilation: PerAxis = 1
    groups: int = 1
    output_padding: PerAxis = 0

    def __post_init__(self) -> None:
        if min(self.output_size) < 1:
            raise ValueError(f"`padding` is {self.padding}, which leaves an output of size {self.output_size}")
        back = tuple(axis.outputs for axis in axes_of(self.weight, *self.adjoint.geometry))
        if back != tuple(self.size):
            raise ValueError(
                f"`output_padding` is {self.output_padding} with stride {self.stride}: there is a bound only where it "
                "is at least 0 and below the stride"
            )

    @classmethod
    def of(cls, module: Any, size: tuple[int, ...]) -> TransposedConvolution:
        """An nn.ConvTranspose1d, nn.ConvTranspose2d or nn.ConvTranspose3d without its bias."""
        geometry = module.stride, module.padding, module.dilation, module.groups, module.output_padding
        return cls(module.weight, size, *geometry)

    @property
    def output_size(self) -> tuple[int, ...]:
        """The spatial size of the output: (n − 1)·s − 2p + d·(k − 1) + output_padding + 1 on an axis."""
        count = axis_count(self.weight, self.size)
        names = ("stride", "padding", "dilation", "output_padding")
        numbers = (per_axis(name, getattr(self, name), count) for name in names)
        around = zip(self.size, self.weight.shape[2:], *numbers, strict=True)
        return tuple((n - 1) * s - 2 * p + d * (k - 1) + rest + 1 for n, k, s, p, d, rest in around)

    @property
    def adjoint(self) -> Convolution:
        """The convolution, from images of `output_size` to images of `size`, whose transpose this map is."""
        return Convolution(self.weight, self.output_size, self.stride, self.padding, self.dilation, self.groups)

    @property
    def domain(self) -> tuple[int, ...]:
        return (self.weight.shape[0], *self.size)

    @property
    def fan_in(self) -> int:
        return self.weight.shape[0] // self.groups * self.adjoint.tiles()  # at most `tiles` taps lie on one entry

    def matrices(self) -> Tensor:
        return self.adjoint.matrices()

    def tiles(self) -> int:
        return self.adjoint.tiles()

    def scaled(self, rows: Tensor) -> TransposedConvolution:
        factors = rows.view(self.groups, 1, -1, *[1] * len(self.size))
        return replace(self, weight=(self.weight.unflatten(0, (self.groups, -1)) * factors).flatten(0, 1))

    def norms(self, norm: Norm) -> Tensor:
        swapped = {Norm.L1: Norm.LINF, Norm.LINF: Norm.L1}
        return self.adjoint.norms(swapped.get(norm, norm))

    def apply(self, u: Tensor) -> Tensor:
        return self.adjoint.transpose(u)

    def transpose(self, v: Tensor) -> Tensor:
        return self.adjoint.apply(v)

    def power_step(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return _power_step(self, u)


def _power_step(operator: Convolution | TransposedConvolution, u: Tensor) -> tuple[Tensor, Tensor]:
    """`Operator.power_step` by the map and its adjoint."""
    image = operator.apply(u.clone()[None])  # the caller may write the next vector over `u`
    rows = image.reshape(operator.groups, -1)
    sigma = torch.linalg.vector_norm(rows, dim=1)
    with torch.no_grad():
        following = operator.transpose(normalised(rows).view(image.shape))
        return sigma, normalised(following.reshape(operator.groups, -1)).view(operator.domain)
