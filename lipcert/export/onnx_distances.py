"""Distances to fixed points as nodes of ONNX. Differences are taken in blocks of points, which bounds the memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lipcert.export.onnx_graph import Graph, Writer
from lipcert.frozen.ops import Distance, DistanceConvolution

ENTRIES = 1 << 22  # differences of one image that are held at a time: 16 MiB
REDUCTIONS = {1.0: "ReduceL1", 2.0: "ReduceL2"}


def distance(g: Graph, o: Distance, x: str) -> str:
    return distances(g, g.node("Unsqueeze", x, g.integers([1])), o.weight, 0, o.weight.shape[1], o.p)


def distance_convolution(g: Graph, o: DistanceConvolution, x: str) -> str:
    """All patches are copied first: (B, groups, 1, positions, n), for points (groups, C'/groups, 1, n)."""
    groups, p = o.groups, o.padding
    channels, rows, columns = g.input_shape()
    x = g.pad(x, (p, p), (p, p), 0.0) if p else x
    sides = (rows + 2 * p, columns + 2 * p)
    entries = torch.arange(channels * math.prod(sides), dtype=torch.float64).view(groups, -1, *sides)
    patches = F.unfold(entries, o.weight.shape[2:], stride=o.stride).mT.long()[:, None]  # which entries they are
    x = g.node("Gather", g.reshape(x, channels * math.prod(sides)), g.tensor("patches", patches), axis=1)
    points = o.weight.view(groups, -1, 1, o.weight[0].numel())
    y = distances(g, x, points, 1, patches.numel(), o.p)
    return g.reshape(y, *o.shape)


def distances(g: Graph, x: str, points: Tensor, axis: int, entries: int, p: float) -> str:
    """‖x − w‖_p along the last axis, for the points w along `axis`; x has 1 there, and has `entries` in all."""
    blocks = []
    for k, block in enumerate(points.split(max(1, ENTRIES // entries), axis)):
        difference = g.node("Sub", x, g.tensor(f"weight_{k}", block))
        last = points.dim()  # counted with the batch axis
        if p == math.inf:
            blocks.append(g.reduce("ReduceMax", g.node("Abs", difference), last))
        else:
            blocks.append(g.reduce(REDUCTIONS[p], difference, last))
    return blocks[0] if len(blocks) == 1 else g.node("Concat", *blocks, axis=axis + 1)


def nearest_neighbour(g: Graph, o: Any, x: str) -> str:
    """For each class, the stored image that |w|² − 2⟨x, w⟩ is smallest of, and the distance to it, computed anew."""
    n = math.prod(g.input_shape())
    x = g.reshape(x, n)
    bytes_of_one, columns = g.scalar(255.0), []
    for label in range(o.classes):
        own = o.images[o.labels == label].reshape(-1, n)
        if not len(own):
            nothing = g.node("Mul", g.reduce("ReduceSum", x, 1, keep=True), g.scalar(0.0))
            columns.append(g.node("Add", nothing, g.shared("none", np.asarray(-np.inf, dtype=np.float32))))
            continue
        stored, lengths = g.tensor(f"images_{label}", own), (own.double() / 255).square().sum(1).float()
        points = g.node("Div", g.node("Cast", stored, to=g.onnx.TensorProto.FLOAT), bytes_of_one)
        products = g.node("Gemm", x, points, g.tensor(f"lengths_{label}", lengths), alpha=-2.0, transB=1)
        nearest = g.node("Gather", stored, g.node("ArgMin", products, axis=1, keepdims=0), axis=0)
        nearest = g.node("Div", g.node("Cast", nearest, to=g.onnx.TensorProto.FLOAT), bytes_of_one)
        columns.append(g.node("Neg", g.reduce("ReduceL2", g.node("Sub", x, nearest), 1, keep=True)))
    return g.node("Concat", *columns, axis=1)


DISTANCES: dict[str, Writer] = {
    "distance": distance,
    "distance_convolution": distance_convolution,
    "nearest_neighbour": nearest_neighbour,
}
