"""The nonlinear functions of one number: how each is evaluated, its largest slope, and its turning points.

The slope is the largest |f'| over all real numbers, for the given parameters. Between two turning points a function is
monotone, so that it maps an interval onto the range of its values at the ends and at the turning points in between. A
function without turning points is increasing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Function:
    """A function by `evaluate(x, *parameters)`, entry by entry.

    slope     `slope(*parameters)`, an upper bound of its slope
    turns     `turns(*parameters)`, its turning points
    exact     whether nothing is rounded: each value is 0, x, −x or a parameter
    periodic  whether it has infinitely many turning points, and values in [−1, 1]
    """

    text: str
    evaluate: Callable[..., Tensor]
    slope: Callable[..., float] = lambda *parameters: 1.0
    turns: Callable[..., tuple[float, ...]] = lambda *parameters: ()
    parameters: tuple[str, ...] = ()
    exact: bool = False
    periodic: bool = False


def _elu_slope(alpha: float, scale: float, input_scale: float) -> float:
    return max(abs(scale), abs(alpha * scale * input_scale)) if input_scale >= 0 else math.inf


def _softplus(x: Tensor, beta: float) -> Tensor:
    scaled = x * beta
    return (scaled.clamp_min(0) + (-scaled.abs()).exp().log1p()) / beta


# x·Φ(x) is steepest at x = √2; the slopes of gelu_tanh, silu and mish were found by search in mpmath and rounded up
GELU = 0.5 + math.erf(1) / 2 + math.exp(-1) / math.sqrt(math.pi) + 1e-15
ERF = 2 / math.sqrt(math.pi) + 1e-15

FUNCTIONS: dict[str, Function] = {
    "relu": Function("max(x, 0)", F.relu, exact=True),
    "abs": Function("|x|", torch.abs, turns=lambda: (0.0,), exact=True),
    "clamp": Function(
        "x, cut off at `low` and `high` (ReLU6, Hardtanh, clamp)",
        lambda x, low, high: x.clamp(low, high),
        parameters=("low", "high"),
        exact=True,
    ),
    "leaky_relu": Function(
        "x, times `slope` below 0",
        F.leaky_relu,
        lambda slope: max(1.0, abs(slope)),
        lambda slope: (0.0,) if slope < 0 else (),
        ("slope",),
    ),
    "elu": Function(
        "`scale`·x, below 0 `scale`·`alpha`·(exp(`input_scale`·x) − 1) (ELU, CELU, SELU)",
        lambda x, alpha, scale, input_scale: torch.ops.aten.elu(x, alpha, scale, input_scale),
        _elu_slope,
        lambda alpha, scale, input_scale: (0.0,) if alpha < 0 or scale < 0 else (),
        ("alpha", "scale", "input_scale"),
    ),
    "softplus": Function("log(1 + exp(`beta`·x))/`beta`", _softplus, parameters=("beta",)),
    "sigmoid": Function("1/(1 + exp(−x))", torch.sigmoid, lambda: 0.25),
    "log_sigmoid": Function("log(sigmoid(x))", F.logsigmoid),
    "tanh": Function("tanh(x)", torch.tanh),
    "arctan": Function("arctan(x)", torch.atan),
    "erf": Function("erf(x)", torch.erf, lambda: ERF),
    "softsign": Function("x/(1 + |x|)", F.softsign),
    "softshrink": Function(
        "x ± `lambda` towards 0, 0 between", lambda x, cut: F.softshrink(x, cut), parameters=("lambda",)
    ),
    "gelu": Function("x·Φ(x)", F.gelu, lambda: GELU, lambda: (-0.7517915246935645,)),
    "gelu_tanh": Function(
        "x·Φ(x) by the hyperbolic tangent",
        lambda x: F.gelu(x, approximate="tanh"),
        lambda: 1.1289931,
        lambda: (-0.7524614220710155,),
    ),
    "silu": Function("x·sigmoid(x)", F.silu, lambda: 1.0998394, lambda: (-1.2784645427610738,)),
    "mish": Function("x·tanh(softplus(x))", F.mish, lambda: 1.0884982, lambda: (-1.1924312145154082,)),
    "hardsigmoid": Function("x/6 + 1/2, cut off at 0 and 1", F.hardsigmoid, lambda: 1 / 6 + 1e-16),
    "hardswish": Function("x·hardsigmoid(x)", F.hardswish, lambda: 1.5, lambda: (-1.5,)),
    "sin": Function("sin(x)", torch.sin, periodic=True),
    "cos": Function("cos(x)", torch.cos, periodic=True),
}


def check(name: str, parameters: tuple[float, ...]) -> None:
    """Raises ValueError where a function is unknown, or has no Lipschitz constant with these parameters."""
    if name not in FUNCTIONS:
        raise ValueError(f"`{name}` is not a known function")
    function = FUNCTIONS[name]
    if len(parameters) != len(function.parameters) or any(p != p for p in parameters):
        raise ValueError(f"`{name}` takes the parameters {function.parameters}, not {parameters}")
    if name == "clamp":
        if parameters[0] > parameters[1]:
            raise ValueError(f"`clamp` needs low ≤ high, not {parameters}")
        return
    slope = function.slope(*parameters)
    positive = {"softplus": "beta", "softshrink": "lambda"}
    if name in positive and not 0 < parameters[0] < math.inf and not (name == "softshrink" and parameters[0] == 0):
        raise ValueError(f"`{name}` needs a positive {positive[name]}, not {parameters[0]}")
    if not all(math.isfinite(p) for p in parameters) or not math.isfinite(slope):
        raise ValueError(f"`{name}` with {parameters} has no finite slope")


def value_at(name: str, x: float, parameters: tuple[float, ...]) -> float:
    return float(FUNCTIONS[name].evaluate(torch.tensor(x, dtype=torch.float64), *parameters))


def bounds_between(name: str, low: Tensor, high: Tensor, parameters: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """The smallest and the largest value for low ≤ x ≤ high, up to rounding errors."""
    function = FUNCTIONS[name]
    ends = [function.evaluate(end, *parameters) for end in (low, high)]
    if not function.turns(*parameters) and not function.periodic:  # it is increasing
        return ends[0], ends[1]
    least, most = torch.minimum(*ends), torch.maximum(*ends)
    if function.periodic:
        middle, reach = function.evaluate((low + high) / 2), (high - low) / 2
        return (middle - reach).clamp_min(-1), (middle + reach).clamp_max(1)
    for turn in function.turns(*parameters):
        value = function.evaluate(torch.full_like(low, turn), *parameters)
        inside = (low <= turn) & (turn <= high)
        least = torch.where(inside, torch.minimum(least, value), least)
        most = torch.where(inside, torch.maximum(most, value), most)
    return least, most
