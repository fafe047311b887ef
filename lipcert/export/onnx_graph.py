"""The nodes and constants of an ONNX graph while it is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from torch import Tensor

from lipcert.frozen.operation import Operation, Shape

Writer = Callable[..., str]  # (graph, operation, *names of its inputs) to the name of its value


def package() -> Any:
    """The package onnx; ValueError where it is not installed."""
    try:
        import onnx
        import onnx.helper
        import onnx.numpy_helper
    except ImportError:
        raise ValueError("`format=onnx` needs a package that is not installed: pip install 'lipcert[export]'") from None
    return onnx


class Graph:
    """Nodes and constants, in the order in which they are added. Values are known by their names.

    nodes      of the package onnx, each named after the number of the operation that it is a part of
    constants  tensors of the package onnx; those of the list have its names, with the operation's number behind
    """

    def __init__(self, image: Shape):
        self.onnx = package()
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.shapes: list[Shape] = [image]
        self.known: dict[tuple[str, bytes, Shape], str] = {}
        self.operation: Operation | None = None
        self.count = 0

    def begin(self, number: int, operation: Operation) -> None:
        """What is added from now on belongs to this operation, the `number`-th."""
        self.number, self.operation, self.count = number, operation, 0
        self.shapes.append(operation.shape)

    def node(self, kind: str, *inputs: str, spare: int = 0, **attributes: Any) -> str:
        """The name of the first value of a new node, which has so many `spare` ones that nothing reads."""
        operation = self.operation
        assert operation is not None
        name = f"{operation.kind}_{self.number}" + (f"_{self.count}" if self.count else "")
        self.count += 1
        values = [name, *(f"{name}_spare_{k}" for k in range(spare))]
        node = self.onnx.helper.make_node(kind, list(inputs), values, name, operation.name or None, **attributes)
        self.nodes.append(node)
        return name

    def input_shape(self, which: int = 0) -> Shape:
        """The shape of an input of the present operation, without the batch axis."""
        assert self.operation is not None
        return self.shapes[self.operation.inputs[which]]

    def tensor(self, name: str, value: Tensor | np.ndarray) -> str:
        """The name of a constant."""
        array = np.ascontiguousarray(value.numpy() if isinstance(value, Tensor) else value)
        whole = f"{name}_{self.number}"
        self.constants.append(self.onnx.numpy_helper.from_array(array.reshape(value.shape), whole))
        return whole

    def integers(self, values: Iterable[int]) -> str:
        """The name of a list of integers, such as a shape or axes."""
        return self.shared("integers", np.array(list(values), dtype=np.int64))

    def scalar(self, value: float) -> str:
        """The name of a number, which is rounded to float32. ValueError where nothing of it is left there."""
        assert self.operation is not None
        with np.errstate(over="ignore", under="ignore"):
            single = np.float32(value)
        if value and math.isfinite(value) and (single == 0 or not np.isfinite(single)):
            name = self.operation.name or self.operation.kind
            raise ValueError(f"operation {self.number}, `{name}`: {value} cannot be written in float32")
        return self.shared("number", np.asarray(single))

    def shared(self, name: str, array: np.ndarray) -> str:
        """The name of a small constant, of which one copy is kept."""
        key = (array.dtype.str, array.tobytes(), array.shape)
        if key not in self.known:
            self.known[key] = f"{name}_{len(self.known)}_shared"
            self.constants.append(self.onnx.numpy_helper.from_array(array, self.known[key]))
        return self.known[key]

    # ---- what many operations need

    def reshape(self, x: str, *sides: int) -> str:
        """x with the shape (batch, *sides)."""
        return self.node("Reshape", x, self.integers((0, *sides)))

    def reduce(self, kind: str, x: str, *axes: int, keep: bool = False) -> str:
        """A reduction over axes that are counted with the batch axis."""
        return self.node(kind, x, self.integers(axes), keepdims=int(keep))

    def pad(self, x: str, before: Iterable[int], after: Iterable[int], value: float) -> str:
        """x, padded by a number along the axes behind the batch axis and the first one."""
        return self.node("Pad", x, self.integers((0, 0, *before, 0, 0, *after)), self.scalar(value))
