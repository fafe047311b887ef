"""Networks that join their layers in a `forward` of their own: traced by torch.fx, and walked operation by operation.

Known are sums, differences, products with constants, concatenations, reshapings to a vector, means over the positions,
and what `AS_MODULE` lists. Everything else is an error that names it. Constants are computed as the network does.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import partialmethod
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.dropout import _DropoutNd

from lipcert.bounds.calculus import Walk, added, joined, rule_of
from lipcert.bounds.modules import RULES, convolution, linear
from lipcert.contracts import Norm, Signal

NORMALISATIONS = (nn.BatchNorm1d, nn.BatchNorm2d)


class _Batch:
    """Stands for the first axis in a shape: what a network computes from it can't be known."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise TypeError("the size of a batch is not known")

    def __repr__(self) -> str:
        return "batch"


BATCH = _Batch()
WRITES = (operator.iadd, operator.isub, operator.imul, operator.itruediv)


class Traced:
    """The rule of a module that has none of its own: what its `forward` does, step by step, with the layers in it."""

    def __init__(self, module: nn.Module, name: str):
        self.root, self.name, self.kind = module, name, type(module).__name__
        self.graph = trace(module, name)
        self.steps = [(node, self.step(node)) for node in self.graph.nodes if not self.is_normalised(node)]

    def __call__(self, walk: Walk, module: nn.Module, signal: Signal, name: str) -> Signal:
        values: dict[fx.Node, Any] = {None: signal}  # type: ignore[dict-item]
        for node, step in self.steps:
            values[node] = step(walk, values)
        if signal.unit:
            self.compare(signal.shape)
        return values[node]

    def compare(self, shape: tuple[int, ...]) -> None:
        """ValueError where the module computes something else than its graph, which knows nothing of the types of its
        inputs, of random numbers, or of what one call leaves for the next."""
        known = (t for t in (*self.root.parameters(), *self.root.buffers()) if t.is_floating_point())
        like = next(known, torch.empty(0, dtype=torch.float64))
        x = torch.linspace(0, 1, 2 * math.prod(shape)).view(2, *shape).to(like)
        try:
            with torch.no_grad():
                own, traced = self.root(x.clone()), fx.Interpreter(self.root, graph=self.graph).run(x.clone())
            same = own.shape == traced.shape and torch.allclose(
                own, traced, rtol=0, atol=1e-5 * float(own.abs().max()), equal_nan=True
            )
        except Exception as error:  # of a user's forward
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"`{self.name or 'model'}`: {self.kind} fails on {(2, *shape)}: {reason}") from None
        if not same:
            raise ValueError(
                f"`{self.name or 'model'}`: what tracing {self.kind} finds is not what it computes; give it a `bound`"
            )

    def step(self, node: fx.Node) -> Callable[[Walk, dict], Any]:
        """What a node makes of the values before it."""
        name = _called(self.name, node)
        if node.op == "placeholder":
            if node.prev.op == "placeholder" and not node.args:
                raise ValueError(f"`{self.name or 'model'}`: {self.kind} takes more than one input")
            return lambda walk, values: node.args[0] if node.prev.op == "placeholder" else values[None]
        if node.op == "get_attr":
            read = operator.attrgetter(str(node.target))
            return lambda walk, values: read(self.root)
        if node.op == "output":
            return lambda walk, values: self.signal(values, node, self.name)
        if node.op == "call_module":
            return self.layer(node, name)

        def run(walk: Walk, values: dict) -> Any:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            return _operation(walk, node, args, kwargs, name, self.kind)

        return run

    def layer(self, node: fx.Node, name: str) -> Callable[[Walk, dict], Any]:
        module: Any = self.root.get_submodule(str(node.target))
        source = node.args[0] if len(node.args) == 1 and not node.kwargs else None
        if not isinstance(source, fx.Node):
            raise ValueError(f"`{name}`: {type(module).__name__} is given more than one tensor, or none")
        if not self.is_normalised(source):
            return lambda walk, values: walk(module, self.signal(values, node, name), name)
        first: Any = self.root.get_submodule(str(source.target))
        rule = linear if isinstance(first, nn.Linear) else convolution
        both = f"{_called(self.name, source)}+{str(node.target).rpartition('.')[2]}"

        def joint(walk: Walk, values: dict) -> Signal:
            walk.check(first, both)
            walk.check(module, name)
            return rule(walk, first, self.signal(values, source, both), both, module)

        return joint

    def signal(self, values: dict, node: fx.Node, name: str) -> Signal:
        """What goes into a node of one input."""
        found = values.get(node.args[0])
        if not isinstance(found, Signal):
            raise ValueError(f"`{name or 'model'}`: {self.kind} has {type(found).__name__} where one activation is due")
        return found

    def is_normalised(self, node: fx.Node) -> bool:
        """Whether it is a linear layer that nothing but a batch normalisation listens to: the two are one map."""
        if node.op != "call_module" or len(node.users) != 1 or len(node.args) != 1:
            return False
        (user,) = node.users
        if user.op != "call_module" or user.args != (node,):
            return False
        first, second = (self.root.get_submodule(str(n.target)) for n in (node, user))
        plain = type(first) in (nn.Linear, nn.Conv2d) and not hasattr(first, "claim")
        return plain and type(second) in NORMALISATIONS


def trace(module: nn.Module, name: str) -> fx.Graph:
    """What `module` computes, as a graph over the layers that have rules of their own."""
    kind, known = type(module).__name__, f"`{name or 'model'}`: no Lipschitz rule for {type(module).__name__}"
    if hasattr(module, "fold"):
        raise ValueError(f"{known}; fold the network first")
    if _is_torchs(module):
        raise ValueError(f"{known}; give it a method `bound(signal, walk, name)`")
    try:
        graph = _Tracer().trace(module)
    except Exception as error:  # whatever a user's forward makes of a stand-in for its input
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{known}, and its `forward` can't be traced ({reason}); give {kind} a `bound`") from None
    _check_writes(graph, module, name)
    return graph


class _Proxy(fx.Proxy):
    """Records `out += x` as what it is: torch.fx's own takes it for `out = out + x`."""

    def write(self, how: Callable, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", how, (self, other), {})

    __iadd__ = partialmethod(write, operator.iadd)
    __isub__ = partialmethod(write, operator.isub)
    __imul__ = partialmethod(write, operator.imul)
    __itruediv__ = partialmethod(write, operator.itruediv)


class _Tracer(fx.Tracer):
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return hasattr(type(m), "bound") or hasattr(m, "fold") or rule_of(m) is not None or _is_torchs(m)


def _is_torchs(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn") and not isinstance(module, nn.Sequential)


def _called(prefix: str, node: fx.Node) -> str:
    """The layer of a node, or the one that an operation stands in, as the user knows it."""
    name = str(node.target) if node.op == "call_module" else ""
    if not name:
        stack = node.meta.get("nn_module_stack")
        name = next(reversed(stack.values()))[0] if stack else ""
    return ".".join(part for part in (prefix, name) if part) or "model"


def _operation(walk: Walk, node: fx.Node, args: tuple, kwargs: dict, name: str, kind: str) -> Any:
    target = node.target
    signals = [a for a in _flat((args, tuple(kwargs.values()))) if isinstance(a, Signal)]
    rule: Any = OPERATIONS.get(target)
    try:
        if not signals and not _overwrites(node):  # of constants alone: computed, not bounded
            if isinstance(target, str):
                return getattr(args[0], target)(*args[1:], **kwargs)
            return target(*args, **kwargs)
        if signals and rule is not None:
            return rule(walk, name, *args, **kwargs)
    except (TypeError, AttributeError):  # arguments that the rule doesn't know
        pass
    raise ValueError(f"`{name}`: no Lipschitz rule for {kind}, whose `forward` calls {_told(node)}")


def _told(node: fx.Node) -> str:
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
KEEPING = (nn.Identity, nn.Flatten, _DropoutNd)  # may give their input itself
SHARING = ("view", "reshape", "flatten", "contiguous", torch.flatten, F.dropout)  # so may these


def _overwrites(node: fx.Node) -> bool:
    method = node.op == "call_method" and str(node.target).endswith("_")
    return method or node.target in WRITES or bool(node.kwargs.get("inplace"))


def _check_writes(graph: fx.Graph, root: nn.Module, name: str) -> None:
    """ValueError where an activation is overwritten that is still read under another name: a graph can't tell.

    A ReLU may overwrite: what is read is then never longer, nor does it move faster, than what the graph takes it for.
    """
    shares: dict[fx.Node, set[fx.Node]] = {}  # all names of the memory that a node's value lies in
    place = {node: i for i, node in enumerate(graph.nodes)}
    written: list[fx.Node] = []
    for node in graph.nodes:
        module = root.get_submodule(str(node.target)) if node.op == "call_module" else None
        inside = (
            [] if module is None else list(module.modules())
        )  # one with a `bound` may give back its input, or write
        overwrites = _overwrites(node) or any(getattr(m, "inplace", False) for m in inside)
        same = overwrites or node.target in SHARING or hasattr(type(module), "bound") or isinstance(module, KEEPING)
        sources = [a for a in node.args[:1] if isinstance(a, fx.Node)]
        shares[node] = shares[sources[0]] if same and sources else set()
        shares[node].add(node)
        harmless = isinstance(module, nn.ReLU | nn.ReLU6) or node.target in AS_MODULE[nn.ReLU]
        if overwrites and not harmless:
            written.append(node)
    for node in written:
        others = [n for n in shares[node] if place[n] < place[node]]
        late = [user for n in others for user in n.users if place[user] > place[node]]
        if late or any(n.op == "placeholder" for n in others):
            raise ValueError(
                f"`{_called(name, node)}`: {_told(node)} overwrites an activation that is read again; don't"
            )
