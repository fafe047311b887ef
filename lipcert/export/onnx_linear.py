"""Linear operations, affine ones and recurrent cells as nodes of ONNX."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from lipcert.export.onnx_graph import Graph, Writer
from lipcert.frozen.ops import Affine, AlongAxis, Convolution, Linear, Recurrent, TransposedConvolution


def linear(g: Graph, o: Linear, x: str) -> str:
    """One matrix for all positions, or G matrices (G, m, n) for (G, n), each as a product of its own."""
    if len(o.shape) == 1:
        return gemm(g, x, o.weight, o.bias)
    matrices = g.tensor("weight", o.weight.mT)
    if o.weight.dim() == 3:
        lines = g.node("MatMul", g.node("Unsqueeze", x, g.integers([2])), matrices)
        y = g.node("Squeeze", lines, g.integers([2]))
    else:
        y = g.node("MatMul", x, matrices)
    return y if o.bias is None else g.node("Add", y, g.tensor("bias", o.bias))


def gemm(g: Graph, x: str, weight: Tensor, bias: Tensor | None) -> str:
    """(B, n) by a matrix (m, n)."""
    constants = [g.tensor("weight", weight)] + ([] if bias is None else [g.tensor("bias", bias)])
    return g.node("Gemm", x, *constants, transB=1)


def convolution(g: Graph, o: Convolution, x: str) -> str:
    constants = [g.tensor(name, value) for name, value in o.constants().items()]
    geometry: dict[str, Any] = {
        "strides": o.stride,
        "pads": o.padding + o.padding,
        "dilations": o.dilation,
        "group": o.groups,
    }
    if isinstance(o, TransposedConvolution):
        return g.node("ConvTranspose", x, *constants, output_padding=o.output_padding, **geometry)
    return g.node("Conv", x, *constants, **geometry)


def along_axis(g: Graph, o: AlongAxis, x: str) -> str:
    axes = len(o.shape) + 1
    if o.axis == axes - 3:  # the last but one, with the batch axis
        return g.node("MatMul", g.tensor("matrix", o.matrix), x)
    order = list(range(axes))
    order[o.axis + 1], order[-1] = order[-1], order[o.axis + 1]
    moves = o.axis + 1 != axes - 1
    x = g.node("Transpose", x, perm=order) if moves else x
    y = g.node("MatMul", x, g.tensor("matrix", o.matrix.mT))
    return g.node("Transpose", y, perm=order) if moves else y


def affine(g: Graph, o: Affine, x: str) -> str:
    x = x if o.scale is None else g.node("Mul", x, g.tensor("scale", o.scale))
    return x if o.shift is None else g.node("Add", x, g.tensor("shift", o.shift))


def recurrent(g: Graph, o: Recurrent, x: str) -> str:
    """Step by step. The first state is 0, so that the first step needs no columns for it."""
    steps, inputs = g.input_shape()
    bias = [] if o.bias is None else [g.tensor("bias", o.bias)]
    first, weight = (g.tensor(name, w) for name, w in (("first", o.weight[:, :inputs]), ("weight", o.weight)))
    cos, sin = g.tensor("cos", o.cos), g.tensor("sin", o.sin)
    outputs, state = [], ""
    for step in range(steps):
        seen = g.node("Gather", x, g.shared("step", np.asarray(step)), axis=1)
        seen = g.node("Concat", seen, state, axis=1) if state else seen
        z = g.node("Gemm", seen, weight if state else first, *bias, transB=1)
        s = g.node("Concat", g.node("Relu", z), g.node("Relu", g.node("Neg", z)), axis=1)
        outputs.append(g.node("Mul", s, cos))
        state = g.node("Mul", s, sin)
    return g.node("Concat", *(g.node("Unsqueeze", y, g.integers([1])) for y in (*outputs, state)), axis=1)


LINEAR: dict[str, Writer] = {
    "linear": linear,
    "convolution": convolution,
    "transposed_convolution": convolution,
    "along_axis": along_axis,
    "affine": affine,
    "recurrent": recurrent,
}
