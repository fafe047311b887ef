"""What layers of torch and of lipcert become: linear maps, normalisation, pooling, distances, and ours as wholes."""

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
from lipcert.frozen.ops.distances import Distance, DistanceConvolution, NearestNeighbour
from lipcert.frozen.ops.joins import Merge, Split
from lipcert.frozen.ops.linear import AlongAxis, Linear
from lipcert.frozen.ops.moves import Rearrange, Slice
from lipcert.frozen.ops.pointwise import TwoSided
from lipcert.frozen.ops.pooling import AdaptiveMaxPool, MaxPool, NormPool
from lipcert.frozen.ops.recurrent import Recurrent

# ---- linear maps


def spatial(low: Lowering, node: fx.Node, x: Any) -> Value:
    """An activation with channels and as many axes as the operation's name says."""
    value, name = low.value(x), operation_name(node.target)
    axes = next(int(letter) for letter in name if letter.isdigit())
    if len(value.shape) != axes + 1:
        raise low.refused(
            f"`{name}` on {value.shape}, whose first axis may be the batch's; unsqueeze(1) gives it channels"
        )
    return value


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
    raise low.refused(
        "a product with a batch of matrices is not in the table; use one matrix, or a grouped convolution"
    )


@rule("addmm")
def addmm(low: Lowering, node: fx.Node, bias: Any, x: Any, weight: Any, *, beta: Any = 1, alpha: Any = 1) -> Value:
    weight = low.constants.call(torch.mul, low.constants.call(torch.t, low.constant(weight)), alpha)
    bias = low.constants.call(torch.mul, low.constant(bias), beta)
    rows = len(weight.value)
    bias = low.constants.call(torch.Tensor.expand, without_batch(low, bias, (rows,)), rows)
    return matrix_product(low, low.value(x), weight, bias)


def numbers(value: Any, axes: int) -> tuple[int, ...]:
    values = list(value) if isinstance(value, list | tuple) else [value]
    return tuple(int(v) for v in (values * axes if len(values) == 1 else values))


@rule("conv1d", "conv2d", "conv3d")
def convolution(
    low: Lowering,
    node: fx.Node,
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Value:
    value, weight = spatial(low, node, x), low.constant(weight)
    axes = weight.value.dim() - 2
    dilation = numbers(dilation, axes)
    if isinstance(padding, str):
        total = [d * (k - 1) if padding == "same" else 0 for k, d in zip(weight.value.shape[2:], dilation, strict=True)]
        padding = tuple(t // 2 for t in total)
        value = padded_behind(low, value, [t % 2 for t in total])
    return low.emit(
        Convolution,
        [value],
        low.shape_of(node),
        {"weight": weight, "bias": optional(low, bias)},
        size=value.shape[1:],
        stride=numbers(stride, axes),
        padding=numbers(padding, axes),
        dilation=dilation,
        groups=groups,
    )


def padded_behind(low: Lowering, value: Value, more: list[int]) -> Value:
    """Zeros behind the last entry of each spatial axis, as "same" padding has them for even kernels."""
    if not any(more):
        return value
    shape = (value.shape[0], *(n + m for n, m in zip(value.shape[1:], more, strict=True)))
    numbered = torch.arange(1, math.prod(value.shape) + 1).view(value.shape)
    padded = F.pad(numbered, [p for m in reversed(more) for p in (0, m)])
    return low.emit(Rearrange, [value], shape, {"index": low.constants.literal(padded - 1)})


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed_convolution(
    low: Lowering,
    node: fx.Node,
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Value:
    value, weight = spatial(low, node, x), low.constant(weight)
    axes = weight.value.dim() - 2
    return low.emit(
        TransposedConvolution,
        [value],
        low.shape_of(node),
        {"weight": weight, "bias": optional(low, bias)},
        size=value.shape[1:],
        stride=numbers(stride, axes),
        padding=numbers(padding, axes),
        output_padding=numbers(output_padding, axes),
        dilation=numbers(dilation, axes),
        groups=groups,
    )


# ---- batch normalisation in evaluation


def factor_of(variance: Tensor, eps: float, weight: Tensor | None) -> Tensor:
    factor = (variance + eps).rsqrt()
    return factor if weight is None else factor * weight


def shift_of(mean: Tensor, factor: Tensor, bias: Tensor | None) -> Tensor:
    return -mean * factor if bias is None else bias - mean * factor


def normalised(low: Lowering, value: Value, weight: Any, bias: Any, mean: Any, variance: Any, eps: float) -> Value:
    if mean is None or variance is None:
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
    return normalised(low, low.value(x), weight, bias, mean, variance, eps), None, None


@rule("batch_norm")
def batch_norm(
    low: Lowering,
    node: fx.Node,
    x: Any,
    weight: Any,
    bias: Any,
    mean: Any,
    variance: Any,
    training: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> Value:
    if training:
        raise low.refused(BATCH)
    return normalised(low, low.value(x), weight, bias, mean, variance, eps)


# ---- averages: a matrix along each axis


def along_axes(low: Lowering, value: Value, matrices: list[tuple[int, Tensor]]) -> Value:
    for axis, matrix in matrices:
        if torch.equal(matrix, torch.eye(*matrix.shape, dtype=matrix.dtype)):
            continue
        shape = (*value.shape[:axis], len(matrix), *value.shape[axis + 1 :])
        value = low.emit(AlongAxis, [value], shape, {"matrix": low.constants.literal(matrix)}, axis=axis)
    return value


def matrix_of(pool: Any, size: int) -> Tensor:
    """What a pooling of one axis does, as a matrix: its images of the unit vectors."""
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
def average_pool(
    low: Lowering,
    node: fx.Node,
    x: Any,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Value:
    value = spatial(low, node, x)
    axes = len(value.shape) - 1
    kernel = numbers(kernel, axes)
    stride, padding = numbers(stride, axes) if stride else kernel, numbers(padding, axes)
    matrices = []
    for axis, (n, k, s, p) in enumerate(zip(value.shape[1:], kernel, stride, padding, strict=True), 1):
        matrix = matrix_of(lambda e, k=k, s=s, p=p: F.avg_pool1d(e, k, s, p, ceil_mode, count_include_pad), n)
        if divisor is not None:
            matrix = (matrix != 0).double() / (divisor if axis == 1 else 1)
        matrices.append((axis, matrix))
    return along_axes(low, value, matrices)


@rule(
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d"
)
def adaptive_average_pool(low: Lowering, node: fx.Node, x: Any, output_size: Any) -> Value:
    value, shape = spatial(low, node, x), low.shape_of(node)
    pairs = enumerate(zip(value.shape[1:], shape[1:], strict=True), 1)
    return along_axes(
        low, value, [(axis, matrix_of(lambda e, m=m: F.adaptive_avg_pool1d(e, m), n)) for axis, (n, m) in pairs]
    )


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


# ---- pooling


@rule("max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices")
def max_pool(
    low: Lowering,
    node: fx.Node,
    x: Any,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Any:
    value = spatial(low, node, x)
    axes = len(value.shape) - 1
    kernel = numbers(kernel, axes)
    indexed = isinstance(node.meta["val"], list | tuple)
    shape = node.meta["val"][0].shape[1:] if indexed else node.meta["val"].shape[1:]
    result = low.emit(
        MaxPool,
        [value],
        tuple(int(n) for n in shape),
        kernel=kernel,
        stride=numbers(stride, axes) if stride else kernel,
        padding=numbers(padding, axes),
        dilation=numbers(dilation, axes),
        ceil_mode=bool(ceil_mode),
    )
    return (result, None) if indexed else result


@rule("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def adaptive_max_pool(low: Lowering, node: fx.Node, x: Any, output_size: Any) -> tuple[Value, None]:
    value = spatial(low, node, x)
    shape = tuple(int(n) for n in node.meta["val"][0].shape[1:])
    return low.emit(AdaptiveMaxPool, [value], shape, output_size=shape[1:]), None


# ---- distances


@rule("cdist", "_cdist_forward")
def cdist(low: Lowering, node: fx.Node, a: Any, b: Any, p: float = 2.0, mode: Any = None) -> Value:
    value, points = (a, b) if isinstance(a, Value) else (b, a)
    points = low.constant(points)
    if len(value.shape) != 1 or points.value.dim() != 2 or value is not a:
        raise low.refused("distances are known between the images' vectors (B, n) and fixed points (m, n)")
    return low.emit(Distance, [value], low.shape_of(node), {"weight": points}, p=float(p))


@rule("lp_distance")
def lp_distance(low: Lowering, node: fx.Node, x: Any, weight: Any, p: float, indexed: bool) -> tuple[Value, None]:
    value, points = low.value(x), low.constant(weight)
    at_infinity(low, p)
    return low.emit(Distance, [value], (len(points.value),), {"weight": points}, p=float(p)), None


@rule("lp_distance_conv2d")
def lp_distance_conv2d(
    low: Lowering, node: fx.Node, x: Any, weight: Any, p: float, stride: int, padding: int, groups: int
) -> Value:
    value, filters = low.value(x), low.constant(weight)
    at_infinity(low, p)
    geometry = {"stride": stride, "padding": padding, "groups": groups}
    return low.emit(DistanceConvolution, [value], low.shape_of(node), {"weight": filters}, **geometry)


def at_infinity(low: Lowering, p: float) -> None:
    if p != math.inf:
        raise low.refused(
            f"a distance layer at p = {p:g} is not 1-Lipschitz in l_inf: only p = inf is certified; train to the end "
            "of a schedule that gets there"
        )


@rule("class_distances")
def class_distances(low: Lowering, node: fx.Node, x: Any, images: Any, labels: Any, classes: int) -> Value:
    constants: dict[str, Constant | None] = {"images": low.constant(images), "labels": low.constant(labels)}
    return low.emit(NearestNeighbour, [low.value(x)], (classes,), constants, classes=classes)


# ---- layers of lipcert that are kept whole


@rule("branch_linear")
def branch_linear(low: Lowering, node: fx.Node, x: Any, weight: Any, bias: Any = None) -> Value:
    value, weight, bias = low.value(x), low.constant(weight), optional(low, bias)
    branches, outputs, inputs = weight.value.shape
    if bias is not None:
        bias = low.constants.call(torch.reshape, bias, (branches, outputs))
    if value.shape == (branches, inputs):
        return low.emit(Linear, [value], (branches, outputs), {"weight": weight, "bias": bias})
    weight = low.constants.call(torch.flatten, weight, 0, 1)  # every branch sees the whole: one matrix
    bias = None if bias is None else low.constants.call(torch.flatten, bias)
    return reshaped(low, matrix_product(low, value, weight, bias), (branches, outputs))


@rule("two_sided")
def two_sided(low: Lowering, node: fx.Node, x: Any, t: Any, function: str, dim: int) -> Value:
    value = low.value(x)
    axis, t = dim % (len(value.shape) + 1) - 1, optional(low, t)
    if t is not None and t.value.dim() > len(value.shape):
        t = low.constants.call(torch.squeeze, t, 0)
    return low.emit(TwoSided, [value], low.shape_of(node), {"t": t}, function=function, axis=axis)


@rule("norm_pool2d")
def norm_pool2d(low: Lowering, node: fx.Node, x: Any, kernel: Any, stride: Any, divisor: int, delta: float) -> Value:
    geometry: dict[str, Any] = {
        "kernel": numbers(kernel, 2),
        "stride": numbers(stride, 2),
        "divisor": divisor,
        "delta": float(delta),
    }
    return low.emit(NormPool, [low.value(x)], low.shape_of(node), **geometry)


@rule("global_norm_pool2d")
def global_norm_pool2d(low: Lowering, node: fx.Node, x: Any, delta: float) -> Value:
    value = low.value(x)
    sides = value.shape[1:]
    geometry: dict[str, Any] = {"kernel": sides, "stride": sides, "divisor": 1, "delta": float(delta)}
    return reshaped(low, low.emit(NormPool, [value], (value.shape[0], 1, 1), **geometry), value.shape[:1])


@rule("split_branches")
def split_branches(low: Lowering, node: fx.Node, x: Any, first: Any, second: Any) -> tuple[Value, ...]:
    value = low.value(x)
    constants: dict[str, Constant | None] = {"first": low.constant(first), "second": low.constant(second)}
    both = low.emit(Split, [value], (2, *value.shape), constants)
    pieces = [low.emit(Slice, [both], (1, *value.shape), axis=0, start=k, stop=k + 1, step=1) for k in (0, 1)]
    return tuple(reshaped(low, piece, value.shape) for piece in pieces)


@rule("merge_branches")
def merge_branches(low: Lowering, node: fx.Node, x: Any, y: Any, first: Any, second: Any) -> Value:
    constants: dict[str, Constant | None] = {"first": low.constant(first), "second": low.constant(second)}
    return low.emit(Merge, [low.value(x), low.value(y)], low.shape_of(node), constants)


@rule("recurrent")
def recurrent(low: Lowering, node: fx.Node, x: Any, weight: Any, bias: Any, cos: Any, sin: Any) -> Value:
    constants = {
        "weight": low.constant(weight),
        "bias": optional(low, bias),
        "cos": low.constant(cos),
        "sin": low.constant(sin),
    }
    return low.emit(Recurrent, [low.value(x)], low.shape_of(node), constants)
