"""The walk through an exported graph: every node becomes a constant, a value of the network, or an error."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from lipcert.frozen.capture.constants import Constant, Constants
from lipcert.frozen.capture.graph import in_order, needed, results_of, same_size, whole_again
from lipcert.frozen.capture.refusals import (
    ATTENTION,
    DROPOUT,
    HOPELESS,
    PRODUCT,
    RANDOM,
    REASONS,
    Refused,
    because,
    first_line,
    operation_name,
)
from lipcert.frozen.operation import Operation, Shape


class Value(NamedTuple):
    """A value of the network: 0 is the image."""

    number: int
    shape: Shape


class Batch:
    """Stands for the size of the batch, and for every number that is computed from it."""


@dataclass(frozen=True)
class Step:
    """An operation whose constants are not computed yet."""

    kind: type[Operation]
    inputs: tuple[int, ...]
    shape: Shape
    name: str
    attributes: dict[str, Any]
    constants: dict[str, Constant | None]


Rule = Callable[..., Any]
RULES: dict[str, Rule] = {}  # by the names of torch's operations; the modules in `program.TABLES` fill it
VIEWS = {"view", "reshape", "_unsafe_view", "expand", "flatten", "unflatten", "squeeze", "repeat", "tile"}
FILLED = {"zeros", "ones", "full", "new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like"}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers what operations of torch become: `function(lowering, node, *arguments, **options)`.

    The arguments are all that the operation has, in its own order, with their defaults.
    """

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


class Lowering:
    """Goes through an exported graph; `run` may be called once.

    `steps` collects the operations, and `constants` records how their constants are computed.
    """

    def __init__(self, exported: Any, shape: Shape):
        self.exported, self.shape = exported, shape
        self.constants = Constants()
        self.steps: list[Step] = []
        self.notes: dict[tuple[str, int], Any] = {}  # what a rule has found out about a value, for later rules
        self.node: fx.Node | None = None
        self.batch: Any = None
        self.dtype = torch.float64  # of the images

    def run(self) -> Value:
        """The logits. Raises Refused where the graph computes what is not in the table of operations."""
        signature = self.exported.graph_signature
        held = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        lifted = signature.inputs_to_lifted_tensor_constants  # tensors that are plain attributes of modules
        state = {**self.exported.state_dict, **self.exported.constants}
        known: dict[fx.Node, Any] = {}
        whole_again(self.exported.graph)
        self.check_operations()
        for node in needed(self.exported.graph):
            self.node = node
            if node.op == "placeholder":
                if node.name in held:
                    known[node] = self.constants.source(held[node.name], state[held[node.name]].detach())
                elif node.name in lifted:
                    known[node] = self.constants.literal(state[lifted[node.name]].detach())
                else:
                    known[node] = Value(0, self.shape)
                    self.batch, self.dtype = node.meta["val"].shape[0], node.meta["val"].dtype
            elif node.op == "output":
                outputs: Any = node.args[0]
                return self.result([known.get(a, a) for a in outputs])
            else:
                known[node] = self.lower(node, known)
        raise Refused("the module returns nothing")

    def result(self, outputs: list[Any]) -> Value:
        if len(outputs) != 1 or not isinstance(outputs[0], Value):
            what = f"{len(outputs)} outputs" if len(outputs) != 1 else "something that does not depend on the image"
            raise Refused(f"a network returns one tensor of logits, but this module returns {what}")
        return outputs[0]

    def lower(self, node: fx.Node, known: dict[fx.Node, Any]) -> Any:
        args: list[Any] = [fx.node.map_arg(a, known.__getitem__) for a in node.args]
        options = {key: fx.node.map_arg(a, known.__getitem__) for key, a in node.kwargs.items()}
        name = operation_name(node.target)
        if name in FILLED:  # they read nothing of an activation but its shape
            args = [self.zeros(a) if isinstance(a, Value) else a for a in args]
        leaves = flat((args, options))
        if isinstance(node.meta.get("val"), torch.SymInt | torch.SymFloat | torch.SymBool):
            return Batch()
        if any(isinstance(leaf, Batch) for leaf in leaves) and name not in VIEWS | FILLED:
            raise self.refused("it computes with the size of the batch; write flatten(1) or x.flatten(2), not len(x)")
        if node.target is operator.getitem and isinstance(args[0], tuple | list):
            found = args[0][args[1]]
            if found is None:
                raise self.refused("the indices that it returns have no finite slope; use the values alone")
            return found
        if not any(isinstance(leaf, Value) for leaf in leaves):
            if any(isinstance(leaf, Batch) for leaf in leaves):
                self.check_batch(node)
            return self.computed(node, *one_image(args), **one_image(options))
        if name not in RULES:
            raise self.refused(because(node.target))
        self.check_batch(node)
        self.check_precision(node)
        try:
            result = RULES[name](self, node, *in_order(node.target, args, options), **options)
            for value, due in zip(flat(result), results_of(node), strict=False):
                if isinstance(value, Value) and value.shape != tuple(due.shape[1:]):
                    raise ValueError(f"its shape is {tuple(due.shape[1:])}, not {value.shape}")
            return result
        except Refused:
            raise
        except Exception as error:  # arguments that the rule does not foresee
            raise self.refused(f"`{name}` has arguments that are not supported ({first_line(error)})") from None

    def zeros(self, like: Value) -> Constant:
        return self.constants.literal(torch.zeros(1, *like.shape, dtype=self.dtype))

    def computed(self, node: fx.Node, *args: Any, **options: Any) -> Constant:
        """A constant that is computed from constants."""
        try:
            return self.constants.call(node.target, *args, **options)  # type: ignore[arg-type]
        except Exception as error:  # whatever a user's forward does with its parameters
            raise self.refused(f"`{operation_name(node.target)}` of constants fails: {first_line(error)}") from None

    def check_operations(self) -> None:
        """Refuses whole layers by their names, which would otherwise be refused because of one of their parts."""
        for node in needed(self.exported.graph):
            self.node, name = node, operation_name(node.target)
            if any("MultiheadAttention" in str(kind) for _, kind in node.meta.get("nn_module_stack", {}).values()):
                raise self.refused(ATTENTION)
            if name in HOPELESS or REASONS.get(name) is RANDOM:
                raise self.refused(because(node.target))
            if "dropout" in name and any(argument is True for argument in node.args):
                raise self.refused(DROPOUT)

    def check_batch(self, node: fx.Node) -> None:
        """Refuses a node whose result does not keep the batch as its first axis."""
        for value in results_of(node):
            if value.dim() == 0 or not same_size(value.shape[0], self.batch):
                raise self.refused(
                    f"`{operation_name(node.target)}` mixes the images of a batch, or fixes its size; keep the batch "
                    "as the first axis: write flatten(1) or x.shape[0], not len(x)"
                )

    def check_precision(self, node: fx.Node) -> None:
        """Refuses a node whose result has another precision than the images."""
        for value in results_of(node):
            if value.dtype.is_complex or (value.dtype.is_floating_point and value.dtype != self.dtype):
                raise self.refused(f"it converts activations to {value.dtype}; leave the precision to the caller")

    # ---- what rules call

    def emit(
        self,
        kind: type[Operation],
        inputs: list[Value],
        shape: Shape,
        constants: dict[str, Constant | None] | None = None,
        **attributes: Any,
    ) -> Value:
        """Adds an operation, whose value it returns."""
        numbers = tuple(value.number for value in inputs)
        self.steps.append(Step(kind, numbers, tuple(shape), self.name(), attributes, constants or {}))
        return Value(len(self.steps), tuple(shape))

    def step(self, value: Value) -> Step | None:
        """The operation that computes a value; None for the image."""
        return self.steps[value.number - 1] if value.number else None

    def shape_of(self, node: fx.Node) -> Shape:
        """The shape of a node's (first) result, without the batch axis."""
        shape = results_of(node)[0].shape[1:]
        if not all(isinstance(side, int) for side in shape):
            raise self.refused("the shape of its result depends on the batch, or on values; write flatten(1)")
        return tuple(int(side) for side in shape)

    def axis(self, shape: Shape, dim: int, otherwise: str = "") -> int:
        """The axis that torch calls `dim`, counted without the batch axis; refused with `otherwise` if it is that."""
        axis = dim % (len(shape) + 1) - 1
        if axis < 0 and otherwise:
            raise self.refused(otherwise)
        return axis

    def value(self, argument: Any, what: str = PRODUCT) -> Value:
        """The argument, which must be a value of the network; refused because of `what` otherwise."""
        if not isinstance(argument, Value):
            raise self.refused(what)
        return argument

    def constant(self, argument: Any, what: str = PRODUCT) -> Constant:
        """The argument, which must be a constant or a number, as a constant; refused because of `what` otherwise."""
        if isinstance(argument, Value):
            raise self.refused(what)
        if not isinstance(argument, Constant):
            return self.constants.literal(argument)
        value = argument.value
        if isinstance(value, Tensor) and value.is_floating_point() and value.dtype != self.dtype:
            return self.constants.call(Tensor.to, argument, self.dtype)  # a plain attribute stays as it is in `double`
        return argument

    def refused(self, why: str) -> Refused:
        """An error that names the module at hand."""
        return Refused(f"`{self.name() or 'model'}`: {why}")

    def name(self) -> str:
        """The module that computes the node at hand, by the name that its user knows."""
        stack = self.node.meta.get("nn_module_stack") if self.node else None
        path = next(reversed(stack.values()))[0] if stack else ""
        return "" if path.startswith("_empty") else path


def one_image(arguments: Any, size: int = 1) -> Any:
    """The arguments with the size of the batch replaced by `size`."""
    if isinstance(arguments, Batch):
        return size
    if isinstance(arguments, dict):
        return {key: one_image(item, size) for key, item in arguments.items()}
    if isinstance(arguments, list | tuple):
        return type(arguments)(one_image(item, size) for item in arguments)
    return arguments


def flat(value: Any) -> list[Any]:
    """Everything in nested lists, tuples and dictionaries; a Value, which is a tuple, counts as one."""
    if isinstance(value, Value):
        return [value]
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in flat(item)]
    if isinstance(value, list | tuple | torch.Size):
        return [leaf for item in value for leaf in flat(item)]
    return [value]
