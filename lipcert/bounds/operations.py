"""The rules of what a traced `forward` does between its layers.

Known are sums, differences, products with constants, concatenations, reshapings to a vector, means over the positions,
and what `AS_MODULE` lists. Everything else is an error that names it. Constants are computed as the network does.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from lipcert.bounds.calculus import Walk, added, joined
from lipcert.bounds.modules import RULES
from lipcert.contracts import Norm, Signal


class _Batch:
    """Stands for the first axis in a shape: what a network computes from it can't be known."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise TypeError("the size of a batch is not known")

    def __repr__(self) -> str:
        return "batch"


BATCH = _Batch()
WRITES = (operator.iadd, operator.isub, operator.imul, operator.itruediv)


def operation(walk: Walk, node: fx.Node, args: tuple, kwargs: dict, name: str, kind: str) -> Any:
    """What a node that is no layer makes of signals and constants, in a `kind` of module."""
    target = node.target
    signals = [a for a in _flat((args, tuple(kwargs.values()))) if isinstance(a, Signal)]
    rule: Any = OPERATIONS.get(target)
    try:
        if not signals and not writes(node):  # of constants alone: computed, not bounded
            if isinstance(target, str):
                return getattr(args[0], target)(*args[1:], **kwargs)
            return target(*args, **kwargs)
        if signals and rule is not None:
            return rule(walk, name, *args, **kwargs)
    except (TypeError, AttributeError):  # arguments that the rule doesn't know
        pass
    raise ValueError(f"`{name}`: no Lipschitz rule for {kind}, whose `forward` calls {told(node)}")


def writes(node: fx.Node) -> bool:
    """Whether it overwrites an activation."""
    method = node.op == "call_method" and str(node.target).endswith("_")
    return method or node.target in WRITES or bool(node.kwargs.get("inplace"))


def told(node: fx.Node) -> str:
    target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return f"{target}{tuple(a for a in node.args if not isinstance(a, fx.Node))}"


def _flat(value: Any) -> list:
    if isinstance(value, tuple | list):
        return [leaf for item in value for leaf in _flat(item)]
    return [value]


def _constant(value: Any, name: str) -> Any:
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.reshape(())
    if isinstance(value, int | float):
        return float(value)
    raise ValueError(f"`{name}`: only single numbers are known as constants, not {type(value).__name__}")


def _add(walk: Walk, name: str, a: Any, b: Any) -> Signal:
    if isinstance(a, Signal) and isinstance(b, Signal):
        return added([a, b], name)
    signal, constant = (a, b) if isinstance(a, Signal) else (b, a)
    size = abs(float(_constant(constant, name))) if signal.unit else 0.0
    entries = math.sqrt(math.prod(signal.shape)) if signal.norm is Norm.L2 else 1.0
    return signal.after(offset=size * entries, roundings=2)


def _multiply(walk: Walk, name: str, a: Any, b: Any) -> Signal:
    if isinstance(a, Signal) and isinstance(b, Signal):
        raise ValueError(f"`{name}`: a product of two activations has no Lipschitz constant")
    signal, constant = (a, b) if isinstance(a, Signal) else (b, a)
    return _scaled(signal, _constant(constant, name))


def _divide(walk: Walk, name: str, a: Any, b: Any) -> Signal:
    if not isinstance(a, Signal) or isinstance(b, Signal):
        raise ValueError(f"`{name}`: a quotient by an activation has no Lipschitz constant")
    return _scaled(a, 1 / _constant(b, name))


def _negate(walk: Walk, name: str, a: Signal) -> Signal:
    return a


def _scaled(signal: Signal, constant: Any) -> Signal:
    if isinstance(constant, Tensor):
        constant = constant.abs()
        if signal.unit:
            constant = constant.detach().double()
    return signal.after(gain=abs(constant) * (1 + 4e-16), roundings=2)


def _concatenate(walk: Walk, name: str, tensors: Any, dim: int = 0) -> Signal:
    if dim != 1 or not all(isinstance(t, Signal) for t in tensors):
        raise ValueError(f"`{name}`: only concatenations of activations along axis 1 have a Lipschitz rule")
    return joined(list(tensors), name)


def _flatten(walk: Walk, name: str, x: Signal, start_dim: int = 0, end_dim: int = -1) -> Signal:
    if start_dim != 1 or end_dim not in (-1, len(x.shape)):
        raise ValueError(f"`{name}`: only flatten(1), of all but the batch axis, has a Lipschitz rule")
    return x.merged().after((math.prod(x.shape),))


def _view(walk: Walk, name: str, x: Signal, *shape: Any) -> Signal:
    sides = list(shape[0] if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape)
    total = math.prod(x.shape)
    known = math.prod(side for side in sides[1:] if side != -1)
    sides[1:] = [total // known if side == -1 else side for side in sides[1:]]
    if (sides[0] is not BATCH and sides[0] != -1) or math.prod(sides[1:]) != total:
        raise ValueError(f"`{name}`: only views that keep the batch axis first have a Lipschitz rule")
    return x.merged().after(tuple(sides[1:]))


def _mean(walk: Walk, name: str, x: Signal, dim: Any = None, keepdim: bool = False) -> Signal:
    if len(x.shape) != 3 or sorted(d % 4 for d in _flat(dim)) != [2, 3]:
        raise ValueError(f"`{name}`: only means over the positions, axes 2 and 3, have a Lipschitz rule")
    out = RULES[nn.AdaptiveAvgPool2d](walk, nn.AdaptiveAvgPool2d(1), x, name)
    return out if keepdim else out.after(out.shape[:1])


def _size(walk: Walk, name: str, x: Signal, axis: int | None = None) -> Any:
    shape = (BATCH, *x.shape)
    return shape if axis is None else shape[axis]


def _attribute(walk: Walk, name: str, x: Signal, attribute: str) -> Any:
    if attribute != "shape":
        raise ValueError(f"`{name}`: no Lipschitz rule for reading `{attribute}` of an activation")
    return _size(walk, name, x)


def _dropout(walk: Walk, name: str, x: Signal, p: float = 0.5, training: bool = True, inplace: bool = False) -> Signal:
    if training and x.unit:
        raise ValueError(f"`{name}`: F.dropout without `training=self.training` is no fixed function")
    return x


def _as_module(kind: type[nn.Module]) -> Callable[..., Signal]:
    def rule(walk: Walk, name: str, x: Signal, *args: Any, **kwargs: Any) -> Signal:
        return RULES[kind](walk, kind(*args, **kwargs), x, name)

    return rule


def _kept(walk: Walk, name: str, x: Signal) -> Signal:
    return x


AS_MODULE: dict[type[nn.Module], tuple] = {
    nn.ReLU: (F.relu, torch.relu, F.relu_, "relu", "relu_"),
    nn.Tanh: (F.tanh, torch.tanh, "tanh"),
    nn.Sigmoid: (F.sigmoid, torch.sigmoid, "sigmoid"),
    nn.LeakyReLU: (F.leaky_relu,),
    nn.ReLU6: (F.relu6,),
    nn.Hardtanh: (F.hardtanh,),
    nn.ELU: (F.elu,),
    nn.SELU: (F.selu,),
    nn.Softplus: (F.softplus,),
    nn.GELU: (F.gelu,),
    nn.SiLU: (F.silu,),
    nn.MaxPool2d: (F.max_pool2d,),
    nn.AvgPool2d: (F.avg_pool2d,),
    nn.AdaptiveAvgPool2d: (F.adaptive_avg_pool2d,),
    nn.AdaptiveMaxPool2d: (F.adaptive_max_pool2d,),
}
OPERATIONS: dict[Any, Callable[..., Any]] = {
    **{f: _as_module(kind) for kind, functions in AS_MODULE.items() for f in functions},
    **dict.fromkeys((operator.add, operator.iadd, operator.sub, torch.add, torch.sub, "add", "add_", "sub"), _add),
    **dict.fromkeys((operator.mul, torch.mul, "mul"), _multiply),
    **dict.fromkeys((operator.truediv, torch.div, "div"), _divide),
    **dict.fromkeys((operator.neg, torch.neg, "neg"), _negate),
    **dict.fromkeys((torch.cat, torch.concat), _concatenate),
    **dict.fromkeys((torch.flatten, "flatten"), _flatten),
    **dict.fromkeys(("view", "reshape"), _view),
    **dict.fromkeys((torch.mean, "mean"), _mean),
    **dict.fromkeys(("contiguous", "clone"), _kept),
    "size": _size,
    getattr: _attribute,
    F.dropout: _dropout,
}
