"""What distances, and the layers of lipcert that stay whole, become."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from lipcert.frozen.capture.constants import Constant
from lipcert.frozen.capture.linear import matrix_product, optional
from lipcert.frozen.capture.lowering import Lowering, Value, rule
from lipcert.frozen.capture.moves import reshaped
from lipcert.frozen.ops.distances import Distance, DistanceConvolution, NearestNeighbour
from lipcert.frozen.ops.joins import Merge, Split
from lipcert.frozen.ops.linear import Linear
from lipcert.frozen.ops.moves import Slice
from lipcert.frozen.ops.pointwise import TwoSided
from lipcert.frozen.ops.recurrent import Recurrent


def named(low: Lowering, **constants: Any) -> dict[str, Constant | None]:
    """The constants of an operation by name; None for those that are absent."""
    return {name: optional(low, constant) for name, constant in constants.items()}


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
    constants = named(low, images=images, labels=labels)
    return low.emit(NearestNeighbour, [low.value(x)], (classes,), constants, classes=classes)


# ---- layers of lipcert that stay whole


@rule("branch_linear")
def branch_linear(low: Lowering, node: fx.Node, x: Any, weight: Any, bias: Any = None) -> Value:
    value, weight, bias = low.value(x), low.constant(weight), optional(low, bias)
    branches, outputs, inputs = weight.value.shape
    if bias is not None:
        bias = low.constants.call(torch.reshape, bias, (branches, outputs))
    if value.shape == (branches, inputs):
        return low.emit(Linear, [value], (branches, outputs), {"weight": weight, "bias": bias})
    weight = low.constants.call(torch.flatten, weight, 0, 1)  # every branch sees all of the input: one matrix
    bias = None if bias is None else low.constants.call(torch.flatten, bias)
    return reshaped(low, matrix_product(low, value, weight, bias), (branches, outputs))


@rule("two_sided")
def two_sided(low: Lowering, node: fx.Node, x: Any, t: Any, function: str, dim: int) -> Value:
    value = low.value(x)
    axis, t = low.axis(value.shape, dim), optional(low, t)
    if t is not None and t.value.dim() > len(value.shape):
        t = low.constants.call(torch.squeeze, t, 0)
    return low.emit(TwoSided, [value], low.shape_of(node), {"t": t}, function=function, axis=axis)


@rule("split_branches")
def split_branches(low: Lowering, node: fx.Node, x: Any, first: Any, second: Any) -> tuple[Value, ...]:
    value = low.value(x)
    both = low.emit(Split, [value], (2, *value.shape), named(low, first=first, second=second))
    pieces = [low.emit(Slice, [both], (1, *value.shape), axis=0, start=k, stop=k + 1, step=1) for k in (0, 1)]
    return tuple(reshaped(low, piece, value.shape) for piece in pieces)


@rule("merge_branches")
def merge_branches(low: Lowering, node: fx.Node, x: Any, y: Any, first: Any, second: Any) -> Value:
    constants = named(low, first=first, second=second)
    return low.emit(Merge, [low.value(x), low.value(y)], low.shape_of(node), constants)


@rule("recurrent")
def recurrent(low: Lowering, node: fx.Node, x: Any, weight: Any, bias: Any, cos: Any, sin: Any) -> Value:
    constants = named(low, weight=weight, bias=bias, cos=cos, sin=sin)
    return low.emit(Recurrent, [low.value(x)], low.shape_of(node), constants)
