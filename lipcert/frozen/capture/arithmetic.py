"""What sums, products, quotients and the larger of two values become."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from lipcert.frozen.capture.constants import Constant
from lipcert.frozen.capture.lowering import Lowering, Value, rule
from lipcert.frozen.capture.refusals import PRODUCT, REASONS, operation_name
from lipcert.frozen.operation import Shape
from lipcert.frozen.ops import functions
from lipcert.frozen.ops.affine import Affine
from lipcert.frozen.ops.joins import Add, Maximum
from lipcert.frozen.ops.moves import Rearrange
from lipcert.frozen.ops.pointwise import Pointwise
from lipcert.frozen.ops.pooling import SubtractMean

# ---- what rules emit


def pointwise(low: Lowering, x: Any, function: str, *parameters: float) -> Value:
    value = low.value(x)
    numbers = tuple(float(p) for p in parameters)
    try:
        functions.check(function, numbers)
    except ValueError as error:
        raise low.refused(str(error)) from None
    return low.emit(Pointwise, [value], value.shape, function=function, parameters=numbers)


def without_batch(low: Lowering, constant: Constant, shape: Shape) -> Constant:
    """A constant in the precision of the images, without the batch axis of size 1 that it may have."""
    if constant.value.dtype != low.dtype:
        constant = low.constants.call(Tensor.to, constant, low.dtype)
    if constant.value.dim() <= len(shape):
        return constant
    if constant.value.dim() == len(shape) + 1 and constant.value.shape[0] == 1:
        return low.constants.call(torch.squeeze, constant, 0)
    raise low.refused(f"a constant of shape {tuple(constant.value.shape)} holds one entry for each image of a batch")


def widened(low: Lowering, value: Value, shape: Shape) -> Value:
    """A value broadcast to `shape`, as an operation whose bound counts the copies."""
    if value.shape == shape:
        return value
    numbers = torch.arange(math.prod(value.shape)).view(value.shape).expand(shape)
    return low.emit(Rearrange, [value], shape, {"index": low.constants.literal(numbers.contiguous())})


def scaled(low: Lowering, value: Value, scale: Constant | None, shift: Constant | None) -> Value:
    return low.emit(Affine, [value], value.shape, {"scale": scale, "shift": shift})


def negated(low: Lowering, value: Value) -> Value:
    return scaled(low, value, low.constants.literal(-1.0), None)


@rule("neg", "negative")
def neg(low: Lowering, node: fx.Node, x: Any) -> Value:
    return negated(low, low.value(x))


@rule("add", "sub", "rsub", "subtract")
def add(low: Lowering, node: fx.Node, a: Any, b: Any, alpha: float = 1) -> Value:
    shape = low.shape_of(node)
    kind = operation_name(node.target)
    if kind == "rsub":
        a, b = b, a
    if isinstance(b, Value):
        b = b if alpha == 1 else scaled(low, b, low.constants.literal(float(alpha)), None)
    elif alpha != 1:
        b = low.constants.call(torch.mul, low.constant(b), float(alpha))
    minus = kind != "add"
    if isinstance(a, Value) and isinstance(b, Value):
        source, axes = low.notes.get(("mean", b.number), (None, ()))
        own = source == a.number and len(a.shape) == len(b.shape)  # b is the mean of a, over axes that are kept
        if minus and own and a.shape == shape:
            return low.emit(SubtractMean, [a], shape, axes=axes)
        a, b = widened(low, a, shape), widened(low, b, shape)
        return low.emit(Add, [a, b], shape, minus=minus)
    if isinstance(a, Value):
        shift = without_batch(low, low.constant(b), shape)
        shift = low.constants.call(torch.neg, shift) if minus else shift
        value = widened(low, a, shape)
    else:
        shift = without_batch(low, low.constant(a), shape)
        value = widened(low, negated(low, b) if minus else b, shape)
    value = scaled(low, value, None, shift)
    if isinstance(a, Value) and not minus and isinstance(b, int | float):  # a number in the code, not a parameter
        low.notes["plus", value.number] = (a.number, float(b))
    return value


@rule("mul", "multiply")
def mul(low: Lowering, node: fx.Node, a: Any, b: Any) -> Value:
    if isinstance(a, Value) and isinstance(b, Value):
        for x, gate in ((a, low.step(b)), (b, low.step(a))):
            sigmoid = gate is not None and gate.kind is Pointwise and gate.attributes["function"] == "sigmoid"
            if sigmoid and gate is not None and gate.inputs == (x.number,):
                return pointwise(low, x, "silu")
        raise low.refused(PRODUCT)
    value, constant = (a, b) if isinstance(a, Value) else (b, a)
    shape = low.shape_of(node)
    return scaled(low, widened(low, value, shape), without_batch(low, low.constant(constant), shape), None)


@rule("div", "divide", "true_divide")
def div(low: Lowering, node: fx.Node, a: Any, b: Any, *, rounding_mode: Any = None) -> Value:
    if rounding_mode is not None:
        raise low.refused(REASONS["round"])
    if isinstance(b, Value):
        source, plus = low.notes.get(("plus", b.number), (None, None))
        step = low.steps[source - 1] if source else None
        softsign = isinstance(a, Value) and plus == 1 and step is not None and step.kind is Pointwise
        if softsign and step is not None and step.attributes["function"] == "abs" and step.inputs == (a.number,):
            return pointwise(low, a, "softsign")
        raise low.refused(REASONS["div"])
    shape = low.shape_of(node)
    inverse = low.constants.call(torch.reciprocal, without_batch(low, low.constant(b), shape))
    return scaled(low, widened(low, low.value(a), shape), inverse, None)


@rule("maximum", "minimum")
def maximum(low: Lowering, node: fx.Node, a: Any, b: Any) -> Value:
    minimum, shape = operation_name(node.target) in ("min", "minimum"), low.shape_of(node)
    if isinstance(a, Value) and isinstance(b, Value):
        return low.emit(Maximum, [widened(low, a, shape), widened(low, b, shape)], shape, minimum=minimum)
    value, constant = (a, b) if isinstance(a, Value) else (b, a)
    return extremum(low, widened(low, value, shape), constant, minimum)


def extremum(low: Lowering, value: Value, bound: Any, minimum: bool) -> Value:
    """max(x, c) = relu(x − c) + c, and min(x, c) = c − relu(c − x)."""
    bound = without_batch(low, low.constant(bound), value.shape)
    down = low.constants.call(torch.neg, bound)
    if not minimum:
        return scaled(low, pointwise(low, scaled(low, value, None, down), "relu"), None, bound)
    minus = low.constants.literal(-1.0)
    return scaled(low, pointwise(low, scaled(low, value, minus, bound), "relu"), minus, bound)
