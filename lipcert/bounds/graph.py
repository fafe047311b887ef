"""Networks that join their layers in a `forward` of their own: traced by torch.fx, and walked step by step."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import partialmethod
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.modules.dropout import _DropoutNd

from lipcert.bounds.calculus import Walk, rule_of
from lipcert.bounds.modules import convolution, linear
from lipcert.bounds.operations import AS_MODULE, operation, told, writes
from lipcert.contracts import Signal

NORMALISATIONS = (nn.BatchNorm1d, nn.BatchNorm2d)


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
            return operation(walk, node, args, kwargs, name, self.kind)

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


KEEPING = (nn.Identity, nn.Flatten, _DropoutNd)  # may give their input itself
SHARING = ("view", "reshape", "flatten", "contiguous", torch.flatten, F.dropout)  # so may these


def _check_writes(graph: fx.Graph, root: nn.Module, name: str) -> None:
    """ValueError where an activation is overwritten that is still read under another name: a graph can't tell.

    A ReLU may overwrite: what is read is then never longer, nor does it move faster, than what the graph takes it for.
    """
    shares: dict[fx.Node, set[fx.Node]] = {}  # all names of the memory that a node's value lies in
    place = {node: i for i, node in enumerate(graph.nodes)}
    written: list[fx.Node] = []
    for node in graph.nodes:
        module = root.get_submodule(str(node.target)) if node.op == "call_module" else None
        inside = [] if module is None else module.modules()  # one with a `bound` may give back its input, or write
        overwrites = writes(node) or any(getattr(m, "inplace", False) for m in inside)
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
                f"`{_called(name, node)}`: {told(node)} overwrites an activation that is read again; don't"
            )
