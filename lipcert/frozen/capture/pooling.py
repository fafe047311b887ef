"""What averages, interpolation and pooling become. Averages and interpolation are a matrix along each axis."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from lipcert.frozen.capture.linear import each, numbers, spatial
from lipcert.frozen.capture.lowering import Lowering, Value, rule
from lipcert.frozen.capture.moves import reshaped
from lipcert.frozen.ops.linear import AlongAxis
from lipcert.frozen.ops.pooling import AdaptiveMaxPool, MaxPool, NormPool

# ---- averages and interpolation


def along_axes(low: Lowering, value: Value, matrices: list[tuple[int, Tensor]]) -> Value:
    """A value multiplied by a matrix along each of the axes that are given with one."""
    for axis, matrix in matrices:
        if torch.equal(matrix, torch.eye(*matrix.shape, dtype=matrix.dtype)):
            continue
        shape = (*value.shape[:axis], len(matrix), *value.shape[axis + 1 :])
        value = low.emit(AlongAxis, [value], shape, {"matrix": low.constants.literal(matrix)}, axis=axis)
    return value


def matrix_of(pool: Any, size: int) -> Tensor:
    """The matrix of a linear function of one axis, from its values at the unit vectors."""
    return pool(torch.eye(size, dtype=torch.float64)[:, None])[:, 0].T.contiguous()


@rule("mean", "sum")
def mean(low: Lowering, node: fx.Node, x: Any, dim: Any = None, keepdim: bool = False, **_: Any) -> Value:
    value = low.value(x)
    rank = len(value.shape) + 1
    axes = sorted({d % rank - 1 for d in (dim if isinstance(dim, list | tuple) else [] if dim is None else [dim])})
    if not axes or axes[0] < 0:
        raise low.refused("it sums over the images of a batch")
    average = "mean" in str(node.target)
    sides = [value.shape[axis] for axis in axes]
    rows = [torch.full((1, n), 1 / n if average else 1.0, dtype=torch.float64) for n in sides]
    whole = along_axes(low, value, list(zip(axes, rows, strict=True)))
    result = reshaped(low, whole, low.shape_of(node))
    if average:
        low.notes["mean", whole.number] = low.notes["mean", result.number] = (value.number, tuple(axes))
    return result


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d")
def average_pool(low: Lowering, node: fx.Node, x: Any, kernel: Any, stride: Any, padding: Any, *settings: Any) -> Value:
    value, (ceil_mode, count_include_pad, divisor) = spatial(low, node, x), (*settings, None)[:3]
    windows = each(len(value.shape) - 1, kernel=kernel, stride=stride or kernel, padding=padding).values()
    matrices = []
    for axis, (n, k, s, p) in enumerate(zip(value.shape[1:], *windows, strict=True), 1):
        matrix = matrix_of(lambda e, k=k, s=s, p=p: F.avg_pool1d(e, k, s, p, ceil_mode, count_include_pad), n)
        if divisor is not None:
            matrix = (matrix != 0).double() / (divisor if axis == 1 else 1)
        matrices.append((axis, matrix))
    return along_axes(low, value, matrices)


@rule(
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
    *("_adaptive_avg_pool2d", "_adaptive_avg_pool3d"),
)
def adaptive_average_pool(low: Lowering, node: fx.Node, x: Any, output_size: Any) -> Value:
    value = spatial(low, node, x)
    sides = enumerate(zip(value.shape[1:], low.shape_of(node)[1:], strict=True), 1)
    matrices = [(axis, matrix_of(lambda e, m=m: F.adaptive_avg_pool1d(e, m), n)) for axis, (n, m) in sides]
    return along_axes(low, value, matrices)


@rule("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d")
def interpolate(
    low: Lowering, node: fx.Node, x: Any, output_size: Any, align_corners: bool, scales: Any = None, *more: Any
) -> Value:
    value, shape = spatial(low, node, x), low.shape_of(node)
    given = scales if isinstance(scales, list | tuple) else [scales, *more]
    factors = [None if s is None else float(s) for s in given] if any(given) else []
    factors = (factors + [None] * len(shape))[: len(shape) - 1]
    matrices = []
    for axis, (n, m, factor) in enumerate(zip(value.shape[1:], shape[1:], factors, strict=True), 1):

        def one_axis(e: Tensor, m: int = m, factor: float | None = factor) -> Tensor:
            return torch.ops.aten.upsample_linear1d(e, [m], align_corners, factor)

        matrices.append((axis, matrix_of(one_axis, n)))
    return along_axes(low, value, matrices)


# ---- the largest entry, or the norm, of windows


@rule("max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices")
def max_pool(
    low: Lowering, node: fx.Node, x: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> Any:
    value = spatial(low, node, x)
    windows: dict[str, Any] = each(
        len(value.shape) - 1, kernel=kernel, stride=stride or kernel, padding=padding, dilation=dilation
    )
    result = low.emit(MaxPool, [value], low.shape_of(node), ceil_mode=bool(ceil_mode), **windows)
    return (result, None) if isinstance(node.meta["val"], list | tuple) else result


@rule("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def adaptive_max_pool(low: Lowering, node: fx.Node, x: Any, output_size: Any) -> tuple[Value, None]:
    value, shape = spatial(low, node, x), low.shape_of(node)
    return low.emit(AdaptiveMaxPool, [value], shape, output_size=shape[1:]), None


@rule("norm_pool2d")
def norm_pool2d(low: Lowering, node: fx.Node, x: Any, kernel: Any, stride: Any, divisor: int, delta: float) -> Value:
    windows: dict[str, Any] = {"kernel": numbers(kernel, 2), "stride": numbers(stride, 2)}
    return low.emit(NormPool, [low.value(x)], low.shape_of(node), divisor=divisor, delta=float(delta), **windows)


@rule("global_norm_pool2d")
def global_norm_pool2d(low: Lowering, node: fx.Node, x: Any, delta: float) -> Value:
    value = low.value(x)
    windows: dict[str, Any] = {"kernel": value.shape[1:], "stride": value.shape[1:]}
    pooled = low.emit(NormPool, [value], (value.shape[0], 1, 1), divisor=1, delta=float(delta), **windows)
    return reshaped(low, pooled, value.shape[:1])
