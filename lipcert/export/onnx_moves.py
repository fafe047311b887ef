"""Pooling, sorting, joins and moves as nodes of ONNX. Axes of nodes are counted with the batch axis."""

from __future__ import annotations

import math

import numpy as np
import torch

from lipcert.export.onnx_graph import Graph, Writer
from lipcert.frozen.ops import (
    AdaptiveMaxPool,
    Add,
    Concatenate,
    Maximum,
    MaxPool,
    Merge,
    MinMax,
    NormPool,
    Permute,
    Rearrange,
    Reshape,
    Slice,
    Sort,
    Split,
    SubtractMean,
)


def max_pool(g: Graph, o: MaxPool, x: str) -> str:
    """Padded before, and behind as far as the last window reaches: runtimes do not agree about windows that begin
    inside the image and end outside of it (`ceil_mode`)."""
    geometry = zip(o.shape[1:], o.stride, o.dilation, o.kernel, strict=True)
    spans = [(count - 1) * s + d * (k - 1) + 1 for count, s, d, k in geometry]
    after = [max(0, span - n - p) for span, n, p in zip(spans, g.input_shape()[1:], o.padding, strict=True)]
    if any(o.padding) or any(after):
        x = g.pad(x, o.padding, after, -math.inf)
    return g.node("MaxPool", x, kernel_shape=o.kernel, strides=o.stride, dilations=o.dilation)


def adaptive_max_pool(g: Graph, o: AdaptiveMaxPool, x: str) -> str:
    """Axis by axis: the entries of each window, of which some are repeated so that all windows have as many."""
    for axis, seen in enumerate(o.windows(g.input_shape()[1:]), 2):
        entries = [row.nonzero()[:, 0].numpy() for row in seen]
        index = np.stack([np.pad(e, (0, int(seen.sum(1).max()) - len(e)), mode="edge") for e in entries])
        x = g.reduce("ReduceMax", g.node("Gather", x, g.tensor(f"windows_{axis}", index), axis=axis), axis + 1)
    return x


def norm_pool(g: Graph, o: NormPool, x: str) -> str:
    mean = g.node("AveragePool", g.node("Mul", x, x), kernel_shape=o.kernel, strides=o.stride)
    taps = math.prod(o.kernel)
    mean = mean if taps == o.divisor else g.node("Mul", mean, g.scalar(taps / o.divisor))
    return g.node("Sqrt", g.node("Add", mean, g.scalar(o.delta)))


def subtract_mean(g: Graph, o: SubtractMean, x: str) -> str:
    return g.node("Sub", x, g.reduce("ReduceMean", x, *(axis + 1 for axis in o.axes), keep=True))


def sort(g: Graph, o: Sort, x: str) -> str:
    """All entries of a line, as its largest or smallest ones in order. The node has a second value, of indices."""
    count = g.integers([o.shape[o.axis]])
    return g.node("TopK", x, count, axis=o.axis + 1, largest=int(o.descending), spare=1)


def min_max(g: Graph, o: MinMax, x: str, y: str) -> str:
    return g.node("Concat", g.node("Max", x, y), g.node("Min", x, y), axis=o.axis + 1)


def maximum(g: Graph, o: Maximum, x: str, y: str) -> str:
    return g.node("Min" if o.minimum else "Max", x, y)


def add(g: Graph, o: Add, x: str, y: str) -> str:
    return g.node("Sub" if o.minus else "Add", x, y)


def concatenate(g: Graph, o: Concatenate, *values: str) -> str:
    return g.node("Concat", *values, axis=o.axis + 1)


def split(g: Graph, o: Split, x: str) -> str:
    branches = [g.node("Mul", x, g.tensor(name, value)) for name, value in o.constants().items()]
    return g.node("Concat", *(g.node("Unsqueeze", y, g.integers([1])) for y in branches), axis=1)


def merge(g: Graph, o: Merge, x: str, y: str) -> str:
    first, second = g.tensor("first", o.first), g.tensor("second", o.second)
    return g.node("Add", g.node("Mul", x, first), g.node("Mul", y, second))


def reshape(g: Graph, o: Reshape, x: str) -> str:
    return g.reshape(x, *o.shape)


def permute(g: Graph, o: Permute, x: str) -> str:
    return g.node("Transpose", x, perm=[0, *(axis + 1 for axis in o.axes)])


def slice_(g: Graph, o: Slice, x: str) -> str:
    return g.node("Slice", x, *(g.integers([k]) for k in (o.start, o.stop, o.axis + 1, o.step)))


def rearrange(g: Graph, o: Rearrange, x: str) -> str:
    flat = g.reshape(x, math.prod(g.input_shape()))
    y = g.node("Gather", flat, g.tensor("index", o.index.clamp_min(0)), axis=1)
    copied = o.index >= 0
    if bool(torch.all(copied)):
        return y
    return g.node("Where", g.tensor("copied", copied), y, g.scalar(0.0))


MOVES: dict[str, Writer] = {
    "max_pool": max_pool,
    "adaptive_max_pool": adaptive_max_pool,
    "norm_pool": norm_pool,
    "subtract_mean": subtract_mean,
    "sort": sort,
    "min_max": min_max,
    "maximum": maximum,
    "add": add,
    "concatenate": concatenate,
    "split": split,
    "merge": merge,
    "reshape": reshape,
    "permute": permute,
    "slice": slice_,
    "rearrange": rearrange,
}
