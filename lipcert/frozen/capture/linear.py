"""What torch's linear layers become: matrix products, convolutions, and batch normalisation in evaluation mode."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from lipcert.frozen.capture.arithmetic import scaled, without_batch
from lipcert.frozen.capture.constants import Constant
from lipcert.frozen.capture.lowering import Lowering, Value, rule
from lipcert.frozen.capture.moves import reshaped
from lipcert.frozen.capture.refusals import BATCH, PRODUCT, operation_name
from lipcert.frozen.ops.convolution import Convolution, TransposedConvolution
from lipcert.frozen.ops.linear import AlongAxis, Linear
from lipcert.frozen.ops.moves import Rearrange

# ---- matrix products


def optional(low: Lowering, constant: Any) -> Constant | None:
    return None if constant is None else low.constant(constant)


def matrix_product(low: Lowering, value: Value, weight: Constant, bias: Constant | None) -> Value:
    shape = (*value.shape[:-1], weight.value.shape[0])
    return low.emit(Linear, [value], shape, {"weight": weight, "bias": bias})


@rule("linear")
def linear(low: Lowering, node: fx.Node, x: Any, weight: Any, bias: Any = None) -> Value:
    return matrix_product(low, low.value(x), low.constant(weight), optional(low, bias))


@rule("mm", "matmul", "bmm", "mv")
def matmul(low: Lowering, node: fx.Node, a: Any, b: Any) -> Value:
    if isinstance(a, Value) and isinstance(b, Value):
        raise low.refused(PRODUCT)
    if isinstance(a, Value):
        b = low.constant(b)
        if b.value.dim() == 2:
            return matrix_product(low, a, low.constants.call(torch.t, b), None)
        if b.value.dim() == 1:
            row = matrix_product(low, a, low.constants.call(torch.unsqueeze, b, 0), None)
            return reshaped(low, row, low.shape_of(node))
    else:
        a = low.constant(a)
        if a.value.dim() == 2 and len(b.shape) > 1:
            return low.emit(AlongAxis, [b], low.shape_of(node), {"matrix": a}, axis=len(b.shape) - 2)
    raise low.refused("a product with a batch of matrices is not known; use one matrix, or a grouped convolution")


@rule("addmm")
def addmm(low: Lowering, node: fx.Node, bias: Any, x: Any, weight: Any, *, beta: Any = 1, alpha: Any = 1) -> Value:
    weight = low.constants.call(torch.mul, low.constants.call(torch.t, low.constant(weight)), alpha)
    bias = low.constants.call(torch.mul, low.constant(bias), beta)
    rows = len(weight.value)
    bias = low.constants.call(torch.Tensor.expand, without_batch(low, bias, (rows,)), rows)
    return matrix_product(low, low.value(x), weight, bias)


# ---- convolutions


def spatial(low: Lowering, node: fx.Node, x: Any) -> Value:
    """An activation with channels and as many further axes as the operation's name says."""
    value, name = low.value(x), operation_name(node.target)
    axes = next(int(letter) for letter in name if letter.isdigit())
    if len(value.shape) != axes + 1:
        raise low.refused(f"`{name}` of {value.shape} may take the batch for channels; add channels by unsqueeze(1)")
    return value


def numbers(value: Any, axes: int) -> tuple[int, ...]:
    """One whole number for each of `axes` axes, from one for all or a list."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    return tuple(int(v) for v in (values * axes if len(values) == 1 else values))


def each(axes: int, **geometry: Any) -> dict[str, tuple[int, ...]]:
    """Every entry of a geometry, such as `stride`, as one number for each axis."""
    return {name: numbers(value, axes) for name, value in geometry.items()}


@rule("conv1d", "conv2d", "conv3d")
def convolution(
    low: Lowering, node: fx.Node, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> Value:
    value, constants = spatial(low, node, x), {"weight": low.constant(weight), "bias": optional(low, bias)}
    kernel = constants["weight"].value.shape[2:]  # type: ignore[union-attr]
    if isinstance(padding, str):
        steps = numbers(dilation, len(kernel))
        total = [d * (k - 1) if padding == "same" else 0 for k, d in zip(kernel, steps, strict=True)]
        padding = tuple(t // 2 for t in total)
        value = padded_behind(low, value, [t % 2 for t in total])
    geometry = each(len(kernel), stride=stride, padding=padding, dilation=dilation)
    shape = low.shape_of(node)
    return low.emit(Convolution, [value], shape, constants, size=value.shape[1:], groups=groups, **geometry)


def padded_behind(low: Lowering, value: Value, more: list[int]) -> Value:
    """Zeros behind the last entry of each spatial axis, as "same" padding adds them for even kernels."""
    if not any(more):
        return value
    shape = (value.shape[0], *(n + m for n, m in zip(value.shape[1:], more, strict=True)))
    numbered = torch.arange(1, math.prod(value.shape) + 1).view(value.shape)
    padded = F.pad(numbered, [p for m in reversed(more) for p in (0, m)])
    return low.emit(Rearrange, [value], shape, {"index": low.constants.literal(padded - 1)})


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed_convolution(
    low: Lowering, node: fx.Node, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, *more: Any
) -> Value:
    value, constants = spatial(low, node, x), {"weight": low.constant(weight), "bias": optional(low, bias)}
    axes, shape, (more_padding, groups, dilation) = len(value.shape) - 1, low.shape_of(node), more
    geometry = each(axes, stride=stride, padding=padding, output_padding=more_padding, dilation=dilation)
    return low.emit(TransposedConvolution, [value], shape, constants, size=value.shape[1:], groups=groups, **geometry)


# ---- batch normalisation in evaluation mode


def factor_of(variance: Tensor, eps: float, weight: Tensor | None) -> Tensor:
    factor = (variance + eps).rsqrt()
    return factor if weight is None else factor * weight


def shift_of(mean: Tensor, factor: Tensor, bias: Tensor | None) -> Tensor:
    return -mean * factor if bias is None else bias - mean * factor


@rule("batch_norm")
def batch_norm(
    low: Lowering, node: fx.Node, x: Any, weight: Any, bias: Any, mean: Any, variance: Any, *settings: Any
) -> Value:
    value, (training, _, eps, *_) = low.value(x), settings
    if training or mean is None or variance is None:
        raise low.refused(BATCH)
    mean, variance = low.constant(mean), low.constant(variance)
    wide = (-1, *[1] * (len(value.shape) - 1))
    factor = low.constants.call(factor_of, variance, eps, optional(low, weight))
    shift = low.constants.call(shift_of, mean, factor, optional(low, bias))
    return scaled(low, value, *(low.constants.call(torch.reshape, c, wide) for c in (factor, shift)))


@rule("_native_batch_norm_legit_no_training")
def batch_norm_in_evaluation(
    low: Lowering, node: fx.Node, x: Any, weight: Any, bias: Any, mean: Any, variance: Any, momentum: float, eps: float
) -> tuple[Value, None, None]:
    return batch_norm(low, node, x, weight, bias, mean, variance, False, momentum, eps), None, None
