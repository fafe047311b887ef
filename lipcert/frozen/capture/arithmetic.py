"""What sums, products and nonlinear functions of torch become."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from lipcert.frozen.capture.constants import Constant
from lipcert.frozen.capture.lowering import Lowering, Value, rule
from lipcert.frozen.capture.refusals import PRODUCT, RANDOM, REASONS, because, operation_name
from lipcert.frozen.operation import Shape
from lipcert.frozen.ops import functions
from lipcert.frozen.ops.affine import Affine
from lipcert.frozen.ops.joins import Add, Maximum, MinMax
from lipcert.frozen.ops.moves import Rearrange, Slice
from lipcert.frozen.ops.pointwise import LeakyReLU, Pointwise
from lipcert.frozen.ops.pooling import SubtractMean

# ---- functions of one number


def pointwise(low: Lowering, x: Any, function: str, *parameters: float) -> Value:
    value = low.value(x)
    numbers = tuple(float(p) for p in parameters)
    try:
        functions.check(function, numbers)
    except ValueError as error:
        raise low.refused(str(error)) from None
    return low.emit(Pointwise, [value], value.shape, function=function, parameters=numbers)


PLAIN = {
    "relu": "relu",
    "abs": "abs",
    "absolute": "abs",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "special_expit": "sigmoid",
    "log_sigmoid": "log_sigmoid",
    "silu": "silu",
    "mish": "mish",
    "hardsigmoid": "hardsigmoid",
    "hardswish": "hardswish",
    "sin": "sin",
    "cos": "cos",
    "erf": "erf",
    "special_erf": "erf",
    "atan": "arctan",
    "arctan": "arctan",
}


@rule(*PLAIN)
def plain(low: Lowering, node: fx.Node, x: Any) -> Value:
    return pointwise(low, x, PLAIN[operation_name(node.target)])


@rule("gelu")
def gelu(low: Lowering, node: fx.Node, x: Any, approximate: str = "none") -> Value:
    return pointwise(low, x, {"none": "gelu", "tanh": "gelu_tanh"}[approximate])


@rule("relu6")
def relu6(low: Lowering, node: fx.Node, x: Any) -> Value:
    return pointwise(low, x, "clamp", 0.0, 6.0)


@rule("hardtanh")
def hardtanh(low: Lowering, node: fx.Node, x: Any, least: float = -1.0, most: float = 1.0) -> Value:
    return pointwise(low, x, "clamp", least, most)


@rule("clamp", "clip", "clamp_min", "clamp_max")
def clamp(low: Lowering, node: fx.Node, x: Any, min: Any = None, max: Any = None) -> Value:
    if "clamp_max" in str(node.target):
        min, max = None, min if max is None else max
    ends = [default if end is None else end for end, default in ((min, -math.inf), (max, math.inf))]
    if any(not isinstance(end, int | float) for end in ends):
        value = low.value(x)
        for bound, minimum in ((min, False), (max, True)):
            value = value if bound is None else extremum(low, value, bound, minimum)
        return value
    return pointwise(low, x, "clamp", *ends)


@rule("threshold")
def threshold(low: Lowering, node: fx.Node, x: Any, least: float, value: float) -> Value:
    if least != value:
        raise low.refused(because(node.target))
    return pointwise(low, x, "clamp", least, math.inf)


@rule("leaky_relu")
def leaky_relu(low: Lowering, node: fx.Node, x: Any, slope: float = 0.01) -> Value:
    return pointwise(low, x, "leaky_relu", slope)


@rule("prelu", "_prelu_kernel")
def prelu(low: Lowering, node: fx.Node, x: Any, slope: Any) -> Value:
    value, slope = low.value(x), low.constant(slope)
    if slope.value.dim() <= 1:  # one for all, or one a channel
        wide = (-1, *[1] * (len(value.shape) - 1))
        slope = low.constants.call(torch.reshape, slope, wide if slope.value.numel() > 1 else ())
    else:
        slope = without_batch(low, slope, value.shape)
    return low.emit(LeakyReLU, [value], value.shape, {"slope": slope})


@rule("elu")
def elu(low: Lowering, node: fx.Node, x: Any, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Value:
    return pointwise(low, x, "elu", alpha, scale, input_scale)


@rule("celu")
def celu(low: Lowering, node: fx.Node, x: Any, alpha: float = 1.0) -> Value:
    if alpha == 0:
        raise low.refused("`celu` with alpha 0 divides by it")
    return pointwise(low, x, "elu", alpha, 1.0, 1.0 / alpha)


@rule("selu")
def selu(low: Lowering, node: fx.Node, x: Any) -> Value:
    return pointwise(low, x, "elu", 1.6732632423543772, 1.0507009873554805, 1.0)


@rule("softplus")
def softplus(low: Lowering, node: fx.Node, x: Any, beta: float = 1.0, threshold: float = 20.0) -> Value:
    if beta > 0 and threshold < 18:  # torch goes over to x there, which is a step
        step = math.log1p(math.exp(-threshold)) / beta if threshold > -700 else math.inf
        raise low.refused(f"`softplus` with threshold {threshold:g} jumps by {step:.3g}; leave it at 20")
    return pointwise(low, x, "softplus", beta)


@rule("softshrink")
def softshrink(low: Lowering, node: fx.Node, x: Any, cut: float = 0.5) -> Value:
    return pointwise(low, x, "softshrink", cut)


@rule("rrelu")
def rrelu(low: Lowering, node: fx.Node, x: Any, lower: float, upper: float, training: bool = False, *_: Any) -> Value:
    if training:
        raise low.refused(RANDOM)
    return pointwise(low, x, "leaky_relu", (lower + upper) / 2)


# ---- sums and products


def without_batch(low: Lowering, constant: Constant, shape: Shape) -> Constant:
    """A constant without the batch axis that it may have, of size 1, in the precision of the images."""
    if constant.value.dtype != low.dtype:
        constant = low.constants.call(Tensor.to, constant, low.dtype)
    if constant.value.dim() <= len(shape):
        return constant
    if constant.value.dim() == len(shape) + 1 and constant.value.shape[0] == 1:
        return low.constants.call(torch.squeeze, constant, 0)
    raise low.refused(f"a constant of shape {tuple(constant.value.shape)} holds one entry for each image of a batch")


def widened(low: Lowering, value: Value, shape: Shape) -> Value:
    """A value broadcast to `shape`, its copies counted."""
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
        own = source == a.number and len(a.shape) == len(b.shape)  # and it kept its axes
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
    if isinstance(a, Value) and not minus and isinstance(b, int | float):  # a number of the code, no parameter
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


def paired(low: Lowering, pieces: list[Value], axis: int, shape: Shape) -> Value | None:
    """MinMax, where a concatenation is of the larger and the smaller of the same two values."""
    steps = [low.step(piece) for piece in pieces]
    if len(steps) != 2 or any(step is None or step.kind is not Maximum for step in steps):
        return None
    first, second = steps
    assert first is not None and second is not None
    if first.attributes["minimum"] or not second.attributes["minimum"] or set(first.inputs) != set(second.inputs):
        return None
    return low.emit(MinMax, [Value(i, first.shape) for i in first.inputs], shape, axis=axis)


def halves_of_two_sided(low: Lowering, pieces: list[Value]) -> Value | None:
    """x, where a concatenation is of relu(x) and relu(−x)."""
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
    literal = scale is not None and scale.node.op == "get_attr"  # a number of the code, no parameter
    if not literal or scale is None or scale.value.numel() != 1 or float(scale.value) != -1:
        return None
    return Value(x, pieces[0].shape)


def slices(low: Lowering, value: Value, axis: int, sizes: list[int]) -> tuple[Value, ...]:
    """The value cut into consecutive pieces along an axis."""
    pieces, start = [], 0
    for size in sizes:
        shape = (*value.shape[:axis], size, *value.shape[axis + 1 :])
        pieces.append(low.emit(Slice, [value], shape, axis=axis, start=start, stop=start + size, step=1))
        start += size
    return tuple(pieces)
