"""What a frozen network computes in real arithmetic, on one image: written anew, entry by entry, in mpmath."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import torch
from mpmath import mpf
from torch import Tensor
from torch.nn import functional as F

from lipcert.frozen.network import Network
from lipcert.frozen.operation import Operation
from lipcert.frozen.ops.affine import LinearMap

mpmath.mp.prec = 300
Array = np.ndarray  # of numbers of mpmath

ONE = mpf(1)
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "relu": lambda x: max(x, mpf(0)),
    "abs": abs,
    "clamp": lambda x, low, high: min(max(x, low), high),
    "leaky_relu": lambda x, slope: x if x > 0 else slope * x,
    "elu": lambda x, alpha, scale, steep: scale * x if x > 0 else scale * alpha * mpmath.expm1(steep * x),
    "softplus": lambda x, beta: (max(x * beta, 0) + mpmath.log1p(mpmath.exp(-abs(x * beta)))) / beta,
    "sigmoid": lambda x: ONE / (1 + mpmath.exp(-x)),
    "log_sigmoid": lambda x: min(x, mpf(0)) - mpmath.log1p(mpmath.exp(-abs(x))),
    "tanh": mpmath.tanh,
    "arctan": mpmath.atan,
    "erf": mpmath.erf,
    "softsign": lambda x: x / (1 + abs(x)),
    "softshrink": lambda x, cut: mpmath.sign(x) * max(abs(x) - cut, mpf(0)),
    "gelu": lambda x: x * mpmath.erfc(-x / mpmath.sqrt(2)) / 2,
    "gelu_tanh": lambda x: x / 2 * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (x + mpf("0.044715") * x**3))),
    "silu": lambda x: x / (1 + mpmath.exp(-x)),
    "mish": lambda x: x * mpmath.tanh(mpmath.log1p(mpmath.exp(x)) if x < 50 else x),
    "hardsigmoid": lambda x: min(max(x / 6 + mpf(1) / 2, mpf(0)), ONE),
    "hardswish": lambda x: x * min(max(x + 3, mpf(0)), mpf(6)) / 6,
    "sin": mpmath.sin,
    "cos": mpmath.cos,
}


def exact(x: Tensor) -> Array:
    """A tensor's numbers, each exactly."""
    return np.array([mpf(float(v)) for v in x.flatten().tolist()], dtype=object).reshape(tuple(x.shape))


def logits(network: Network, image: Tensor) -> Array:
    """Of one image, for the constants that the network has."""
    values = [exact(image)]
    for operation in network.operations:
        values.append(evaluated(operation, *(values[i] for i in operation.inputs)))
    return values[-1]


def evaluated(operation: Operation, *inputs: Array) -> Array:
    """The value of one operation on one image's values."""
    own = OWN.get(operation.kind)
    if own is not None:
        value = own(operation, *inputs)
    elif isinstance(operation, LinearMap):
        value = product(operation, *inputs)
    else:
        value = chosen(operation, *inputs)
    return np.array(value, dtype=object).reshape(operation.shape)


def product(operation: LinearMap, x: Array) -> Array:
    """By the matrix, whose columns the operation itself gives exactly: products with 1 and sums with 0 do not round."""
    units = torch.eye(x.size, dtype=torch.float64).view(x.size, *x.shape)
    y = exact(operation.linear(units).reshape(x.size, -1)).T @ x.reshape(-1)
    offset = operation.offset()
    return y if offset is None else y + exact(offset.expand(operation.shape)).reshape(-1)


def chosen(operation: Operation, *inputs: Array) -> Array:
    """Operations that copy, sort or compare: they do the same to the ranks of the numbers, 0 being that of 0."""
    numbers = sorted({v for x in inputs for v in x.reshape(-1)} | {mpf(0)})
    zero = numbers.index(mpf(0))
    ranks = {v: float(k - zero) for k, v in enumerate(numbers)}
    of_inputs = [torch.tensor([ranks[v] for v in x.reshape(-1)]).double().view(1, *x.shape) for x in inputs]
    return np.array([numbers[int(k) + zero] for k in operation.evaluate(*of_inputs).flatten().tolist()], dtype=object)


def pointwise(o: Any, x: Array) -> Any:
    return [FUNCTIONS[o.function](v, *map(mpf, o.parameters)) for v in x.reshape(-1)]


def wide(constant: Tensor | None, shape: tuple[int, ...], default: float) -> Array:
    return exact((torch.tensor(default, dtype=torch.float64) if constant is None else constant).expand(shape))


def leaky_relu(o: Any, x: Array) -> Any:
    return np.where(x > 0, x, wide(o.slope, x.shape, 0) * x)


def two_sided(o: Any, x: Array) -> Any:
    t = wide(o.t, x.shape, 1.0)
    curves: dict[str, Callable] = {
        "relu": lambda v, t: max(v, mpf(0)),
        "sigmoid": lambda v, t: t * FUNCTIONS["sigmoid"](4 * v / t),
        "tanh": lambda v, t: t * mpmath.tanh(v / t),
    }
    f = np.array([curves[o.function](*vt) for vt in zip(x.reshape(-1), t.reshape(-1), strict=True)], dtype=object)
    return np.concatenate((f.reshape(x.shape), f.reshape(x.shape) - x), o.axis)


def norm_pool(o: Any, x: Array) -> Any:
    units = torch.eye(x.size, dtype=torch.float64).view(x.size, *x.shape)
    sums = F.avg_pool2d(units, o.kernel, o.stride, divisor_override=1).flatten(1)
    means = exact(sums).T @ (x * x).reshape(-1) / o.divisor
    return [mpmath.sqrt(m + mpf(o.delta)) for m in means]


def subtract_mean(o: Any, x: Array) -> Any:
    return x - x.mean(o.axes, keepdims=True)


def distances(patches: Array, weight: Array, p: float) -> list[Any]:
    out = []
    for w in weight.reshape(len(weight), -1):
        d = [abs(v) for v in patches.reshape(-1) - w]
        out.append(max(d) if p == math.inf else sum(d, mpf(0)) if p == 1 else mpmath.sqrt(sum(v * v for v in d)))
    return out


def distance_convolution(o: Any, x: Array) -> Any:
    (channels, height, width), k, p = x.shape, o.weight.shape[2], o.padding
    padded = np.full((channels, height + 2 * p, width + 2 * p), mpf(0), dtype=object)
    padded[:, p : p + height, p : p + width] = x
    out = np.empty(o.shape, dtype=object)
    per_group, outputs, weight = channels // o.groups, o.shape[0] // o.groups, exact(o.weight)
    for g in range(o.groups):
        own = slice(g * per_group, (g + 1) * per_group), slice(g * outputs, (g + 1) * outputs)
        for i in range(o.shape[1]):
            for j in range(o.shape[2]):
                at = i * o.stride, j * o.stride
                patch = padded[own[0], at[0] : at[0] + k, at[1] : at[1] + k]
                out[own[1], i, j] = distances(patch, weight[own[1]], math.inf)
    return out


def nearest_neighbour(o: Any, x: Array) -> Any:
    found = np.array([mpf("-inf")] * o.classes, dtype=object)
    for image, label in zip(o.images, o.labels.tolist(), strict=True):
        found[label] = max(found[label], -distances(x, exact(image)[None] / mpf(255), 2.0)[0])
    return found


def recurrent(o: Any, x: Array) -> Any:
    weight, state, rows = exact(o.weight), exact(torch.zeros(2 * o.weight.shape[0])), []
    bias, cos, sin = wide(o.bias, (len(weight),), 0.0), exact(o.cos).item(), exact(o.sin).item()
    for step in x:
        z = weight @ np.concatenate((step, state)) + bias
        s = np.concatenate((np.maximum(z, mpf(0)), np.maximum(-z, mpf(0))))
        rows.append(cos * s)
        state = sin * s
    return np.stack([*rows, state])


OWN: dict[str, Callable[..., Any]] = {
    "affine": lambda o, x: wide(o.scale, x.shape, 1.0) * x + wide(o.shift, x.shape, 0.0),
    "pointwise": pointwise,
    "leaky_relu": leaky_relu,
    "two_sided": two_sided,
    "norm_pool": norm_pool,
    "subtract_mean": subtract_mean,
    "add": lambda o, x, y: x - y if o.minus else x + y,
    "split": lambda o, x: np.stack((wide(o.first, x.shape, 1.0) * x, wide(o.second, x.shape, 1.0) * x)),
    "merge": lambda o, x, y: wide(o.first, x.shape, 1.0) * x + wide(o.second, x.shape, 1.0) * y,
    "distance": lambda o, x: distances(x, exact(o.weight), o.p),
    "distance_convolution": distance_convolution,
    "nearest_neighbour": nearest_neighbour,
    "recurrent": recurrent,
}
