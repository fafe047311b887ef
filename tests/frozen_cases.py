"""Random frozen networks: for each kind of operation a function that adds one, with parameters as odd as allowed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from frozen_builder import Builder

from lipcert.contracts import Norm
from lipcert.frozen.network import Network
from lipcert.frozen.ops.functions import FUNCTIONS

NORMS = tuple(Norm)
MOST = 48  # entries of a value, so that whole Jacobians are cheap


def linear(b: Builder, v: int) -> int:
    shape, rows = b.shapes[v], b.r.randint(1, 5)
    grouped = len(shape) == 2 and b.r.random() < 0.5
    lead = (shape[0],) if grouped else ()
    bias = b.numbers(*lead, rows) if b.r.random() < 0.5 else None
    return b.add("linear", v, weight=b.numbers(*lead, rows, shape[-1]), bias=bias)


def geometry(b: Builder, axes: int) -> dict[str, tuple[int, ...]]:
    return {
        "stride": tuple(b.r.choice((1, 1, 2, 3)) for _ in range(axes)),
        "padding": tuple(b.r.choice((0, 1, 1, 2)) for _ in range(axes)),
        "dilation": tuple(b.r.choice((1, 1, 2)) for _ in range(axes)),
    }


def convolution(b: Builder, v: int) -> int:
    axes = b.r.choice((1, 2, 2, 3))
    v = b.as_image(v, axes)
    channels, *size = b.shapes[v]
    groups, kernel = b.divisor(channels), [b.r.randint(1, 3) for _ in range(axes)]
    outputs = groups * b.r.randint(1, 2)
    weight, bias = b.numbers(outputs, channels // groups, *kernel), b.numbers(outputs)
    bias = bias if b.r.random() < 0.5 else None
    return b.add("convolution", v, weight=weight, bias=bias, size=tuple(size), groups=groups, **geometry(b, axes))


def transposed_convolution(b: Builder, v: int) -> int:
    axes = b.r.choice((1, 2, 2, 3))
    v = b.as_image(v, axes)
    channels, *size = b.shapes[v]
    groups, kernel = b.divisor(channels), [b.r.randint(1, 3) for _ in range(axes)]
    outputs, layout = b.r.randint(1, 2), geometry(b, axes)
    rest = tuple(b.r.randrange(s) for s in layout["stride"])
    weight, bias = b.numbers(channels, outputs, *kernel), b.numbers(outputs * groups)
    fields: dict[str, Any] = {"size": tuple(size), "groups": groups, "output_padding": rest, **layout}
    return b.add("transposed_convolution", v, weight=weight, bias=bias if b.r.random() < 0.5 else None, **fields)


def along_axis(b: Builder, v: int) -> int:
    axis = b.axis(v)
    return b.add("along_axis", v, matrix=b.numbers(b.r.randint(1, 4), b.shapes[v][axis]), axis=axis)


def affine(b: Builder, v: int) -> int:
    """Often behind a linear operation, one number an output of it: the two are then measured as one."""
    scale = b.broadcast(b.shapes[v])
    if b.r.random() < 0.4:
        v = b.r.choice((linear, convolution))(b, v)
        shape = b.shapes[v]
        last = b.operations[-1].kind == "linear"
        scale = b.numbers(shape[-1]) if last else b.numbers(shape[0], *[1] * (len(shape) - 1))
    shift = b.broadcast(b.shapes[v])
    which = b.r.randrange(4)
    return b.add("affine", v, scale=None if which == 0 else scale, shift=None if which == 1 else shift)


def parameters(b: Builder, name: str) -> tuple[float, ...]:
    def number(*usual: float) -> float:
        extreme = b.wild and b.r.random() < 0.3
        return b.r.choice((1e-310, 1e-300, 1e300, 1e-39, 1e20)) if extreme else b.r.choice(usual)

    if name == "clamp":
        low, high = sorted((number(-1, 0.1, 0.3), number(0.7, 6.0, 0.3)))
        return b.r.choice(((low, high), (-math.inf, high), (low, math.inf)))
    if name == "elu":
        return (number(1.0, -0.5, 2.0), number(1.0, -1.0, 1.05), number(1.0, 0.0, 3.0))
    return tuple(
        {"slope": number(0.01, -0.5, 2.0, 0.0)}.get(p, number(1.0, 0.1, 20.0)) for p in FUNCTIONS[name].parameters
    )


def pointwise(b: Builder, v: int, name: str | None = None) -> int:
    name = name or b.r.choice(list(FUNCTIONS))
    return b.add("pointwise", v, function=name, parameters=parameters(b, name))


def leaky_relu(b: Builder, v: int) -> int:
    return b.add("leaky_relu", v, slope=b.broadcast(b.shapes[v]))


def two_sided(b: Builder, v: int) -> int:
    function = b.r.choice(("relu", "sigmoid", "tanh"))
    t = None if function == "relu" else b.broadcast(b.shapes[v], positive=True).clamp_min(5e-324)
    return b.add("two_sided", v, function=function, t=t, axis=b.axis(v))


def max_pool(b: Builder, v: int) -> int:
    axes = b.r.choice((1, 2, 2, 3))
    v, layout = b.as_image(v, axes), geometry(b, axes)
    kernel = tuple(b.r.randint(1, 4) for _ in range(axes))
    layout["padding"] = tuple(min(p, k // 2) for p, k in zip(layout["padding"], kernel, strict=True))
    return b.add("max_pool", v, kernel=kernel, ceil_mode=b.r.random() < 0.5, **layout)


def adaptive_max_pool(b: Builder, v: int) -> int:
    axes = b.r.choice((1, 2, 2, 3))
    return b.add("adaptive_max_pool", b.as_image(v, axes), output_size=tuple(b.r.randint(1, 3) for _ in range(axes)))


def norm_pool(b: Builder, v: int) -> int:
    v = b.as_image(v)
    kernel = tuple(b.r.randint(1, min(3, n)) for n in b.shapes[v][1:])
    stride = tuple(b.r.randint(1, 3) for _ in kernel)
    delta = b.r.choice((1e-12, 1e-30, 1.0) if not b.wild else (1e-320, 1e-300, 1e-40, 1e300, 1e-12))
    return b.add("norm_pool", v, kernel=kernel, stride=stride, divisor=b.r.choice((1, math.prod(kernel))), delta=delta)


def subtract_mean(b: Builder, v: int) -> int:
    shape = b.shapes[v]
    return b.add("subtract_mean", v, axes=tuple(b.r.sample(range(len(shape)), b.r.randint(1, len(shape)))))


def sort(b: Builder, v: int) -> int:
    return b.add("sort", v, axis=b.axis(v), descending=b.r.random() < 0.5)


def min_max(b: Builder, v: int) -> int:
    pair = b.pair(v)
    return b.add("min_max", *pair, axis=b.axis(pair[0]))


def maximum(b: Builder, v: int) -> int:
    return b.add("maximum", *b.pair(v), minimum=b.r.random() < 0.5)


def add(b: Builder, v: int) -> int:
    return b.add("add", *b.pair(v), minus=b.r.random() < 0.5)


def concatenate(b: Builder, v: int) -> int:
    pair = list(b.pair(v))
    if math.prod(b.shapes[v]) <= 12:
        pair += b.r.sample(pair, b.r.randint(0, 2))
    return b.add("concatenate", *pair, axis=b.axis(pair[0]))


def split(b: Builder, v: int) -> int:
    return b.add("split", v, first=b.broadcast(b.shapes[v]), second=b.broadcast(b.shapes[v]))


def merge(b: Builder, v: int) -> int:
    """Often of the branches of a split, with layers on them; now and then one that sees past the split."""
    if b.r.random() < 0.6 and 2 * math.prod(b.shapes[v]) <= MOST:
        outside, shape = v, b.shapes[v]
        v = b.add("split", v, first=b.broadcast(shape), second=b.broadcast(shape))
        pair = [b.add("slice", v, axis=0, start=k, stop=k + 1, step=1) for k in (0, 1)]
        pair = [b.add("reshape", u, shape=shape) for u in pair]
        for k in (0, 1):
            if b.r.random() < 0.6:
                weight = b.numbers(shape[-1], shape[-1])
                pair[k] = b.add("linear", pair[k], weight=weight, bias=None)
            if b.r.random() < 0.2:
                pair[k] = b.add("add", pair[k], b.r.choice((outside, pair[1 - k])), minus=False)
    else:
        pair = list(b.pair(v))
    shape = b.shapes[pair[0]]
    return b.add("merge", *pair, first=b.broadcast(shape), second=b.broadcast(shape))


def reshape(b: Builder, v: int) -> int:
    return b.as_image(v, b.r.choice((1, 2)))


def permute(b: Builder, v: int) -> int:
    n = len(b.shapes[v])
    return b.add("permute", v, axes=tuple(b.r.sample(range(n), n)))


def slice_(b: Builder, v: int) -> int:
    axis = b.axis(v)
    start = b.r.randrange(b.shapes[v][axis])
    stop = b.r.randint(start + 1, b.shapes[v][axis])
    return b.add("slice", v, axis=axis, start=start, stop=stop, step=b.r.randint(1, 3))


def rearrange(b: Builder, v: int) -> int:
    n = math.prod(b.shapes[v])
    shape = b.r.choice(((n,), (2, n), (2, 2), (3, 1, 2)))
    return b.add("rearrange", v, index=torch.randint(-1, n, shape, generator=b.generator))


def distance(b: Builder, v: int) -> int:
    v = b.as_vector(v)
    weight = b.numbers(b.r.randint(1, 5), b.shapes[v][0])
    return b.add("distance", v, weight=weight, p=b.r.choice((1.0, 2.0, math.inf)))


def distance_convolution(b: Builder, v: int) -> int:
    v = b.as_image(v)
    channels, k = b.shapes[v][0], b.r.randint(1, 3)
    groups = b.divisor(channels)
    weight = b.numbers(groups * b.r.randint(1, 2), channels // groups, k, k)
    fields = {"stride": b.r.randint(1, 3), "padding": b.r.randint(0, 2), "groups": groups}
    return b.add("distance_convolution", v, weight=weight, **fields)


def nearest_neighbour(b: Builder, v: int) -> int:
    v = b.as_image(v)
    count, classes = b.r.randint(3, 6), 3
    images = torch.randint(0, 256, (count, *b.shapes[v]), generator=b.generator, dtype=torch.uint8)
    labels = torch.cat((torch.arange(classes), torch.randint(0, classes, (count - classes,), generator=b.generator)))
    return b.add("nearest_neighbour", v, images=images, labels=labels, classes=classes)


def recurrent(b: Builder, v: int) -> int:
    v = b.as_image(v, 1)
    hidden, angle = b.r.randint(1, 2), torch.tensor(b.r.random() * 6)
    weight = b.numbers(hidden, b.shapes[v][1] + 2 * hidden)
    bias = b.numbers(hidden) if b.r.random() < 0.5 else None
    large = b.r.choice((1.0, 1.0, 3.0))
    return b.add("recurrent", v, weight=weight, bias=bias, cos=large * angle.cos().double(), sin=angle.sin().double())


KINDS: dict[str, Callable[[Builder, int], int]] = {
    f.__name__.rstrip("_"): f
    for f in (
        *(linear, convolution, transposed_convolution, along_axis, affine, pointwise, leaky_relu, two_sided, max_pool),
        *(adaptive_max_pool, norm_pool, subtract_mean, sort, min_max, maximum, add, concatenate, split, merge, reshape),
        *(permute, slice_, rearrange, distance, distance_convolution, nearest_neighbour, recurrent),
    )
}


def one_operation(kind: str, seed: int, wild: bool) -> Network:
    """A network of little more than one operation, the first draw that fits together. For every second pair of seeds
    the entries of its input are scaled, each by its own number: it then matters which of them a part needs."""
    for attempt in range(200):
        builder = Builder(1000 * seed + attempt, wild=wild)
        try:
            first = 0
            if seed % 4 > 1:
                first = builder.add("affine", 0, scale=builder.numbers(*builder.shapes[0]), shift=None)
            last = KINDS[kind](builder, first)
            if math.prod(builder.shapes[last]) <= MOST:
                return builder.network(last)
        except ValueError:
            continue
    raise AssertionError(f"no draw of {kind} fits together")


def grown(steps: list[tuple[str, int]], seed: int, wild: bool = False) -> Network:
    """A network of these operations, one on the other or on earlier values; what does not fit is left out."""
    builder, value = Builder(seed, wild=wild), 0
    for kind, choice in steps:
        if builder.r.random() < 0.15:
            value = choice % len(builder.shapes)
        before = len(builder.operations)
        try:
            grew = KINDS[kind](builder, value)
            if math.prod(builder.shapes[grew]) <= MOST:
                value = grew
        except ValueError:
            del builder.operations[before:], builder.shapes[before + 1 :]
    many = math.prod(builder.shapes[value]) > 8
    return builder.network(value, classes=4 if many or builder.r.random() < 0.5 else None)
