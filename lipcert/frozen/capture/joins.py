"""What concatenations, sorting and the largest of several entries become."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from lipcert.frozen.capture.arithmetic import maximum, scaled, without_batch
from lipcert.frozen.capture.constants import Constant
from lipcert.frozen.capture.lowering import Lowering, Value, rule
from lipcert.frozen.capture.moves import reshaped
from lipcert.frozen.operation import Shape
from lipcert.frozen.ops.affine import Affine
from lipcert.frozen.ops.joins import Concatenate, Maximum, MinMax
from lipcert.frozen.ops.moves import Rearrange, Slice
from lipcert.frozen.ops.pointwise import Pointwise, TwoSided
from lipcert.frozen.ops.pooling import Sort

# ---- concatenations


def as_value(low: Lowering, piece: Any) -> Value:
    """A value; a constant becomes one that does not depend on the image."""
    if isinstance(piece, Value):
        return piece
    constant = low.constant(piece)
    shape = tuple(constant.value.shape[1:])
    nothing: dict[str, Constant | None] = {"index": low.constants.literal(torch.full(shape, -1))}
    zero = low.emit(Rearrange, [Value(0, low.shape)], shape, nothing)
    return scaled(low, zero, None, without_batch(low, constant, shape))


BATCHES = "it joins batches"


@rule("cat", "concat", "concatenate")
def concatenate(low: Lowering, node: fx.Node, pieces: Any, dim: int = 0) -> Value:
    return joined(low, pieces, dim, low.shape_of(node))


@rule("hstack")
def hstack(low: Lowering, node: fx.Node, pieces: Any) -> Value:
    return joined(low, pieces, 1, low.shape_of(node))


def joined(low: Lowering, pieces: Any, dim: int, shape: Shape) -> Value:
    axis = low.axis(shape, dim, BATCHES)
    values = [as_value(low, piece) for piece in pieces]
    if len(values) == 1:
        return values[0]
    x = halves_of_two_sided(low, values)
    if x is not None:
        return low.emit(TwoSided, [x], shape, {"t": None}, function="relu", axis=axis)
    return paired(low, values, axis, shape) or low.emit(Concatenate, values, shape, axis=axis)


@rule("stack")
def stack(low: Lowering, node: fx.Node, pieces: Any, dim: int = 0) -> Value:
    shape = low.shape_of(node)
    axis = low.axis(shape, dim, BATCHES)
    single = (*shape[:axis], 1, *shape[axis + 1 :])
    values = [reshaped(low, as_value(low, piece), single) for piece in pieces]
    return values[0] if len(values) == 1 else low.emit(Concatenate, values, shape, axis=axis)


# ---- sorting, and the largest entries

LARGEST = "it selects the largest entry of the whole batch"


@rule("sort")
def sort(low: Lowering, node: fx.Node, x: Any, *args: Any, **options: Any) -> tuple[Any, None]:
    if "stable" in str(node.target):
        args = args[1:] if args and isinstance(args[0], bool | None) else args
    dim = options.get("dim", args[0] if args else -1)
    descending = options.get("descending", args[1] if len(args) > 1 else False)
    return sorted_along(low, low.value(x), dim, descending), None


@rule("topk")
def topk(low: Lowering, node: fx.Node, x: Any, k: int, dim: int, largest: bool, *_: Any) -> tuple[Any, None]:
    return first_of(low, sorted_along(low, low.value(x), dim, largest), dim, k), None


@rule("amax", "amin")
def amax(low: Lowering, node: fx.Node, x: Any, dim: Any = (), keepdim: bool = False) -> Value:
    value = low.value(x)
    axes = dim if isinstance(dim, list | tuple) else [dim]
    if not axes:
        raise low.refused(LARGEST)
    for axis in axes:
        value = first_of(low, sorted_along(low, value, axis, "amax" in str(node.target)), axis, 1)
    return reshaped(low, value, low.shape_of(node))


@rule("max", "min")
def largest(low: Lowering, node: fx.Node, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    if str(node.target).endswith(".other"):
        return maximum(low, node, x, dim)
    if dim is None:
        raise low.refused(LARGEST)
    value = first_of(low, sorted_along(low, low.value(x), dim, ".max." in str(node.target)), dim, 1)
    return reshaped(low, value, low.shape_of(node)), None


def sorted_along(low: Lowering, value: Value, dim: int, descending: bool) -> Value:
    axis = low.axis(value.shape, dim, "it sorts the images of a batch")
    return low.emit(Sort, [value], value.shape, axis=axis, descending=bool(descending))


def first_of(low: Lowering, value: Value, dim: int, k: int) -> Value:
    axis = low.axis(value.shape, dim)
    shape = (*value.shape[:axis], k, *value.shape[axis + 1 :])
    return low.emit(Slice, [value], shape, axis=axis, start=0, stop=k, step=1)


def paired(low: Lowering, pieces: list[Value], axis: int, shape: Shape) -> Value | None:
    """MinMax, where the pieces are the larger and the smaller of the same two values; None otherwise."""
    steps = [low.step(piece) for piece in pieces]
    if len(steps) != 2 or any(step is None or step.kind is not Maximum for step in steps):
        return None
    first, second = steps
    assert first is not None and second is not None
    if first.attributes["minimum"] or not second.attributes["minimum"] or set(first.inputs) != set(second.inputs):
        return None
    return low.emit(MinMax, [Value(i, first.shape) for i in first.inputs], shape, axis=axis)


def halves_of_two_sided(low: Lowering, pieces: list[Value]) -> Value | None:
    """x, where the pieces are relu(x) and relu(−x); None otherwise."""
    steps = [low.step(piece) for piece in pieces]
    relu = {"function": "relu", "parameters": ()}
    if len(steps) != 2 or any(s is None or s.kind is not Pointwise or s.attributes != relu for s in steps):
        return None
    first, second = steps
    assert first is not None and second is not None
    (x,), (y,) = first.inputs, second.inputs
    minus = low.steps[y - 1] if y else None
    if minus is None or minus.kind is not Affine or minus.inputs != (x,) or minus.constants["shift"] is not None:
        return None
    scale = minus.constants["scale"]
    literal = scale is not None and scale.node.op == "get_attr"  # a number in the code, not a parameter
    if not literal or scale is None or scale.value.numel() != 1 or float(scale.value) != -1:
        return None
    return Value(x, pieces[0].shape)
