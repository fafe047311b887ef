"""What the nonlinear functions of one number become."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from lipcert.frozen.capture.arithmetic import extremum, pointwise, without_batch
from lipcert.frozen.capture.lowering import Lowering, Value, rule
from lipcert.frozen.capture.refusals import RANDOM, because, operation_name
from lipcert.frozen.ops.pointwise import LeakyReLU

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
