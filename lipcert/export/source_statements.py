"""What each operation computes, as the right side of a statement of Python."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from lipcert.frozen.operation import Operation
from lipcert.frozen.ops import (
    Affine,
    AlongAxis,
    Convolution,
    Distance,
    Linear,
    MaxPool,
    Pointwise,
    Reshape,
    Slice,
    TwoSided,
)


class Call(NamedTuple):
    """A function, or a method, and its arguments; one of them may be a tuple of several."""

    function: str
    arguments: tuple[str | tuple[str, ...], ...]


class Sum(NamedTuple):
    """Two terms and the operator between them."""

    first: str
    operator: str
    second: str


Statement = Call | Sum | str


def call(function: str, *arguments: Any, **named: Any) -> Call:
    """With the arguments written out; strings are code already."""
    given = (a if isinstance(a, str) else literal(a) for a in arguments)
    return Call(function, (*given, *(f"{name}={literal(value)}" for name, value in named.items())))


def literal(value: Any) -> str:
    """A number, a truth value or a tuple of them as Python; one number for a tuple that repeats it."""
    if isinstance(value, tuple):
        return literal(value[0]) if len(set(value)) == 1 and len(value) > 1 else repr(value)
    if isinstance(value, float) and math.isinf(value):
        return 'float("inf")' if value > 0 else '-float("inf")'
    if not isinstance(value, int | float):
        raise AssertionError(f"{type(value).__name__} is no number")
    return repr(value)


def geometry(operation: Any, *names: str) -> dict[str, Any]:
    """Those of an operation's numbers that are not what torch takes without being told."""
    usual = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "output_padding": 0, "ceil_mode": False}
    given = {name: getattr(operation, name) for name in names}
    return {name: v for name, v in given.items() if set(v if isinstance(v, tuple) else (v,)) != {usual.get(name)}}


# Each takes the operation, its constants by name (None where there is none), and the variables of its inputs.
Constants = dict[str, str]


def given(constants: Constants) -> list[str]:
    return list(constants.values())


def linear(o: Linear, c: Constants, x: str) -> Statement:
    return call("F.linear" if o.weight.dim() == 2 else "matrices", x, *given(c))


def convolution(o: Convolution, c: Constants, x: str) -> Statement:
    named = geometry(o, "stride", "padding", "dilation", "groups")
    return call(f"F.conv{len(o.size)}d", x, *given(c), **named)


def transposed_convolution(o: Convolution, c: Constants, x: str) -> Statement:
    named = geometry(o, "stride", "padding", "output_padding", "groups", "dilation")
    return call(f"F.conv_transpose{len(o.size)}d", x, *given(c), **named)


def along_axis(o: AlongAxis, c: Constants, x: str) -> Statement:
    if o.axis == len(o.shape) - 1:
        return call("F.linear", x, c["matrix"])
    if o.axis == len(o.shape) - 2:
        return Sum(c["matrix"], "@", x)
    return call("along", x, c["matrix"], o.axis + 1)


def affine(o: Affine, c: Constants, x: str) -> Statement:
    if len(c) == 2:
        return call("torch.addcmul", c["shift"], x, c["scale"])
    if not c:
        return x
    return Sum(x, "*", c["scale"]) if "scale" in c else Sum(x, "+", c["shift"])


FUNCTIONS: dict[str, str] = {
    "relu": "F.relu",
    "abs": "torch.abs",
    "clamp": "torch.clamp",
    "leaky_relu": "F.leaky_relu",
    "elu": "torch.ops.aten.elu",
    "softplus": "softplus",
    "sigmoid": "torch.sigmoid",
    "log_sigmoid": "F.logsigmoid",
    "tanh": "torch.tanh",
    "arctan": "torch.atan",
    "erf": "torch.erf",
    "softsign": "F.softsign",
    "softshrink": "F.softshrink",
    "gelu": "F.gelu",
    "gelu_tanh": "F.gelu",
    "silu": "F.silu",
    "mish": "F.mish",
    "hardsigmoid": "F.hardsigmoid",
    "hardswish": "F.hardswish",
    "sin": "torch.sin",
    "cos": "torch.cos",
}


def pointwise(o: Pointwise, c: Constants, x: str) -> Statement:
    return call(FUNCTIONS[o.function], x, *o.parameters, *(['approximate="tanh"'] * (o.function == "gelu_tanh")))


def two_sided(o: TwoSided, c: Constants, x: str) -> Statement:
    return call("two_sided" if o.function == "relu" else f"two_sided_{o.function}", x, *given(c), o.axis + 1)


def max_pool(o: MaxPool, c: Constants, x: str) -> Statement:
    named = {"stride": o.stride, **geometry(o, "padding", "dilation", "ceil_mode")}
    return call(f"F.max_pool{len(o.kernel)}d", x, o.kernel, **named)


def reshape(o: Reshape, c: Constants, x: str) -> Statement:
    return call(f"{x}.flatten", 1) if len(o.shape) == 1 else call(f"{x}.reshape", -1, *o.shape)


def slice_(o: Slice, c: Constants, x: str) -> Statement:
    ends = f"{o.start or ''}:{o.stop}" + (f":{o.step}" if o.step > 1 else "")
    return f"{x}[{':, ' * (o.axis + 1)}{ends}]"


def distance(o: Distance, c: Constants, x: str) -> Statement:
    return call("distances", x, c["weight"], o.p)


WRITERS: dict[str, Callable[..., Statement]] = {
    "linear": linear,
    "convolution": convolution,
    "transposed_convolution": transposed_convolution,
    "along_axis": along_axis,
    "affine": affine,
    "pointwise": pointwise,
    "leaky_relu": lambda o, c, x: call("torch.where", f"{x} > 0", x, f"{c['slope']} * {x}"),
    "two_sided": two_sided,
    "max_pool": max_pool,
    "adaptive_max_pool": lambda o, c, x: call(f"F.adaptive_max_pool{len(o.output_size)}d", x, o.output_size),
    "norm_pool": lambda o, c, x: call("norm_pool", x, o.kernel, o.stride, o.divisor, o.delta),
    "subtract_mean": lambda o, c, x: Sum(x, "-", f"{x}.mean({tuple(k + 1 for k in o.axes)!r}, keepdim=True)"),
    "sort": lambda o, c, x: call("sort", x, o.axis + 1, o.descending),
    "min_max": lambda o, c, x, y: call("min_max", x, y, o.axis + 1),
    "maximum": lambda o, c, x, y: call("torch.minimum" if o.minimum else "torch.maximum", x, y),
    "add": lambda o, c, x, y: Sum(x, "-" if o.minus else "+", y),
    "concatenate": lambda o, c, *x: Call("torch.cat", (x, str(o.axis + 1))),
    "split": lambda o, c, x: call("split", x, *given(c)),
    "merge": lambda o, c, x, y: Sum(f"{c['first']} * {x}", "+", f"{c['second']} * {y}"),
    "reshape": reshape,
    "permute": lambda o, c, x: call(f"{x}.permute", 0, *(axis + 1 for axis in o.axes)),
    "slice": slice_,
    "rearrange": lambda o, c, x: call("rearrange", x, c["index"]),
    "distance": distance,
    "distance_convolution": lambda o, c, x: call("patch_distances", x, c["weight"], o.stride, o.padding, o.groups),
    "nearest_neighbour": lambda o, c, x: call("class_distances", x, *given(c), o.classes),
    "recurrent": lambda o, c, x: call("recurrent", x, c["weight"], c.get("bias", "None"), c["cos"], c["sin"]),
}


def statement(operation: Operation, constants: Constants, inputs: list[str]) -> Statement:
    """The right side of the statement that computes an operation's value."""
    return WRITERS[operation.kind](operation, constants, *inputs)
