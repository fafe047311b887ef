"""Functions of each entry as nodes of ONNX, without cancellation near 0: errors are bounded relative to slope·|x|."""

from __future__ import annotations

import math
from collections.abc import Callable

from lipcert.export.onnx_graph import Graph, Writer
from lipcert.frozen.ops import LeakyReLU, Pointwise, TwoSided


def clamp(g: Graph, x: str, low: float, high: float) -> str:
    ends = [g.scalar(end) if math.isfinite(end) else "" for end in (low, high)]
    return g.node("Clip", x, *(ends if ends[1] else ends[:1]))


def elu(g: Graph, x: str, alpha: float, scale: float, input_scale: float) -> str:
    """One of both terms is 0. ONNX's Elu subtracts 1 from exp(x); exp(z) − 1 = tanh(z/2)·(exp(z) + 1) keeps what is
    left of that near 0."""
    z = scaled(g, g.node("Min", x, g.scalar(0.0)), input_scale)
    grown = g.node("Add", g.node("Exp", z), g.scalar(1.0))
    below = g.node("Mul", g.node("Tanh", g.node("Mul", z, g.scalar(0.5))), grown)
    return scaled(g, g.node("Add", g.node("Relu", x), scaled(g, below, alpha)), scale)


def scaled(g: Graph, x: str, factor: float) -> str:
    return x if factor == 1 else g.node("Mul", x, g.scalar(factor))


def softplus(g: Graph, x: str, beta: float = 1.0) -> str:
    """max(z, 0) + log(1 + exp(−|z|)), over beta, for z = beta·x."""
    z = scaled(g, x, beta)
    y = g.node("Add", g.node("Relu", z), log_of_one_more(g, z))
    return y if beta == 1 else g.node("Div", y, g.scalar(beta))


def log_sigmoid(g: Graph, x: str) -> str:
    return g.node("Sub", g.node("Min", x, g.scalar(0.0)), log_of_one_more(g, x))


def log_of_one_more(g: Graph, z: str) -> str:
    """log(1 + exp(−|z|))."""
    small = g.node("Exp", g.node("Neg", g.node("Abs", z)))
    return g.node("Log", g.node("Add", small, g.scalar(1.0)))


def gelu(g: Graph, x: str) -> str:
    return half_of_one_more(g, x, g.node("Erf", g.node("Mul", x, g.scalar(math.sqrt(0.5)))))


def gelu_tanh(g: Graph, x: str) -> str:
    """The argument of tanh is x·√(2/π)·(1 + 0.044715·x²)."""
    grown = g.node("Add", g.node("Mul", g.node("Mul", x, x), g.scalar(0.044715)), g.scalar(1.0))
    return half_of_one_more(
        g, x, g.node("Tanh", g.node("Mul", g.node("Mul", x, grown), g.scalar(math.sqrt(2 / math.pi))))
    )


def half_of_one_more(g: Graph, x: str, curve: str) -> str:
    """x·(1 + curve)/2."""
    return g.node("Mul", x, g.node("Mul", g.node("Add", curve, g.scalar(1.0)), g.scalar(0.5)))


def softshrink(g: Graph, x: str, cut: float) -> str:
    return g.node("Sub", x, clamp(g, x, -cut, cut))


def hardsigmoid(g: Graph, x: str) -> str:
    return g.node("Div", clamp(g, g.node("Add", x, g.scalar(3.0)), 0.0, 6.0), g.scalar(6.0))


FUNCTIONS: dict[str, Callable[..., str]] = {
    "relu": lambda g, x: g.node("Relu", x),
    "abs": lambda g, x: g.node("Abs", x),
    "clamp": clamp,
    "leaky_relu": lambda g, x, slope: g.node("PRelu", x, g.scalar(slope)),
    "elu": elu,
    "softplus": softplus,
    "sigmoid": lambda g, x: g.node("Sigmoid", x),
    "log_sigmoid": log_sigmoid,
    "tanh": lambda g, x: g.node("Tanh", x),
    "arctan": lambda g, x: g.node("Atan", x),
    "erf": lambda g, x: g.node("Erf", x),
    "softsign": lambda g, x: g.node("Div", x, g.node("Add", g.node("Abs", x), g.scalar(1.0))),
    "softshrink": softshrink,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": lambda g, x: g.node("Mul", x, g.node("Sigmoid", x)),
    "mish": lambda g, x: g.node("Mul", x, g.node("Tanh", softplus(g, x))),
    "hardsigmoid": hardsigmoid,
    "hardswish": lambda g, x: g.node("Mul", x, hardsigmoid(g, x)),
    "sin": lambda g, x: g.node("Sin", x),
    "cos": lambda g, x: g.node("Cos", x),
}


def pointwise(g: Graph, o: Pointwise, x: str) -> str:
    return FUNCTIONS[o.function](g, x, *o.parameters)


def leaky_relu(g: Graph, o: LeakyReLU, x: str) -> str:
    return g.node("PRelu", x, g.tensor("slope", o.slope))


def two_sided(g: Graph, o: TwoSided, x: str) -> str:
    if o.t is None:
        return g.node("Concat", g.node("Relu", x), g.node("Relu", g.node("Neg", x)), axis=o.axis + 1)
    t, sigmoid = g.tensor("t", o.t), o.function == "sigmoid"
    z = g.node("Div", scaled(g, x, 4.0 if sigmoid else 1.0), t)
    curve = g.node("Mul", g.node("Sigmoid" if sigmoid else "Tanh", z), t)
    return g.node("Concat", curve, g.node("Sub", curve, x), axis=o.axis + 1)


POINTWISE: dict[str, Writer] = {"pointwise": pointwise, "leaky_relu": leaky_relu, "two_sided": two_sided}
