"""The Lipschitz calculus: a sound bound for any network of known parts, with the rounding error of evaluating it.

A layer of ours brings its rule as a method `bound(signal, walk, name)` in its own file; torch's own modules have theirs
in `modules.py`; whatever joins such parts in a `forward` of its own is traced (`graph.py`). An unknown module or
operation is an error that names it, never a silent 1. The same rules, walked by `estimate.Estimate`, give the estimate
that training uses.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from lipcert.bounds.operator_norm import matrix_norm
from lipcert.bounds.operators import Matrices, Operator, growth
from lipcert.contracts import Norm, Signal

Rule = Callable[["Walk", Any, Signal, str], Signal]
TOLERANCE = 1e-8  # a layer that claims 1 and measures 1 + 1e-12 has rounded, not expanded


def proved(operator: Operator, norm: Norm) -> Tensor:
    """What `Walk` measures by, unless told otherwise: upper bounds."""
    return operator.norms(norm)


class Walk:
    """Carries a Signal through a network in float64; `rows` collects one entry a linear layer.

    measured=True uses every layer's real operator norm; False uses what its scheme claims, where it claims something.
    `measure(operator, norm)` gives the norms (G,): everything that is carried is as true as they are.
    ValueError, naming the layer, where a layer is unknown, doesn't fit, or measures more than it claims.
    """

    def __init__(
        self,
        measured: bool = True,
        norms: dict[Any, Tensor] | None = None,
        measure: Callable[[Operator, Norm], Tensor] = proved,
    ):
        self.measured, self.measure = measured, measure
        self.norms = {} if norms is None else norms  # measured once a layer and shape; hand them on to a second walk
        self.rows: list[dict[str, Any]] = []
        self.gains: list[Tensor] | None = None  # of the rows; a list where costs are asked for
        self.rules: dict[nn.Module, Rule] = {}

    def __call__(self, module: nn.Module, signal: Signal, name: str = "") -> Signal:
        rule = self.rules.get(module)
        if rule is None:
            rule = self.rules[module] = self.rule_of(module, signal.norm, name)
        out = rule(self, module, signal, name)
        if out.unit and not (bool(out.lipschitz.isfinite().all()) and out.error == out.error):
            raise ValueError(f"`{name or 'model'}`: {type(module).__name__} has no finite Lipschitz constant")
        return out

    def rule_of(self, module: nn.Module, norm: Norm, name: str) -> Rule:
        """The module's own rule, or torch's modules' rule, or what tracing it finds; ValueError where there is none."""
        from lipcert.bounds.graph import Traced

        self.check(module, name)
        if not hasattr(type(module), "bound"):
            return rule_of(module) or Traced(module, name)
        order = type(module).__mro__
        forward, bound = (next(i for i, c in enumerate(order) if m in vars(c)) for m in ("forward", "bound"))
        if forward < bound:  # inherited: a rule of what the parent computes
            kind = type(module).__name__
            raise ValueError(f"`{name or 'model'}`: {kind} has a `forward` of its own, so it needs its own `bound`")
        if norm not in getattr(module, "norms", (getattr(module, "norm", Norm.L2),)):
            raise ValueError(f"`{name or 'model'}`: {type(module).__name__} has no Lipschitz rule in {norm}")
        return lambda walk, module, signal, name: module.bound(signal, walk, name)

    def check(self, module: nn.Module, name: str) -> None:
        if module._forward_hooks or module._forward_pre_hooks:
            raise ValueError(f"`{name or 'model'}`: a forward hook may change what this layer computes; remove it")
        if "forward" in vars(module):
            raise ValueError(f"`{name or 'model'}`: {type(module).__name__} was given another `forward`; remove it")
        if module.training and isinstance(module, _BatchNorm | _DropoutNd):
            raise ValueError(f"`{name or 'model'}`: {type(module).__name__} is in training mode; call `eval()` first")

    def matrices(self, name: str, module: Any, signal: Signal, weight: Tensor, shape: tuple[int, ...]) -> Signal:
        """The signal behind matrices (G, m, n): one for everything, or one a branch."""
        return self.linear(name, module, signal, Matrices(weight), shape)

    def linear(
        self,
        name: str,
        module: Any,
        signal: Signal,
        operator: Operator,
        shape: tuple[int, ...],
        normalisation: nn.Module | None = None,
    ) -> Signal:
        """The signal behind `module`, x ↦ operator(x) + bias, and the batch normalisation that follows it: the two are
        one linear map, whose norm may be far below the product of theirs."""
        offset, local, before = self.affine(module, signal, operator, shape)
        if normalisation is not None:
            factor = self.factor(normalisation, name)
            operator = operator.scaled(factor * (1 + 1e-12))
            offset, rounding = standardised(normalisation, factor, module.bias, before, signal, shape)
            local = float(factor.abs().max()) * local + rounding
        norms = self.norm_of(module, signal, operator, normalisation)
        claim = getattr(module, "claim", None) if self.measure is proved else None
        claimed = norms if claim is None else norms.new_tensor(claim)
        if bool((norms > claimed * (1 + TOLERANCE)).any()) or not bool(norms.isfinite().all()):
            worst = int((norms / claimed).argmax())
            raise ValueError(
                f"layer `{name}` has operator norm {float(norms[worst]):.9g}, above the {float(claimed[worst]):.9g} it "
                "claims: nothing built on that claim can be certified"
            )
        gain = norms if self.measured else torch.maximum(claimed, norms)
        branched = signal.lipschitz.dim() == 1
        if branched and len(gain) != len(signal.lipschitz):
            raise ValueError(f"`{name}`: {len(gain)} groups do not match {len(signal.lipschitz)} branches")
        row = {"layer": name, "norm": float(norms.max())}
        if claim is not None:
            tiling = math.sqrt(operator.tiles())
            reshaped = matrix_norm(operator.matrices()) * tiling  # what b(W) could have claimed, had it been exact
            row |= {
                "claim": float(claimed.max()),
                "gram_slack": float((claimed / reshaped).max()),
                "tiling_slack": float((reshaped / norms).max()),
            }
        return self.carried(row, signal, shape, gain if branched else gain.max(), offset, local)

    def carried(
        self, row: dict[str, Any], signal: Signal, shape: tuple[int, ...], gain: Tensor, offset: float, local: float
    ) -> Signal:
        """`signal.after(...)`, noted as a row."""
        if self.gains is not None:
            gain = gain.clone().requires_grad_()
            self.gains.append(gain)
        out = signal.after(shape, gain=gain, offset=offset, local=local)
        self.rows.append(row | {"lipschitz": float(out.lipschitz.detach().max())})
        return out

    def norm_of(self, module: Any, signal: Signal, operator: Operator, normalisation: nn.Module | None) -> Tensor:
        """The operator's norms (G,), measured where they aren't known."""
        key = (module, normalisation, signal.shape, signal.norm)
        if key not in self.norms:
            self.norms[key] = self.measure(operator, signal.norm)
        return self.norms[key]

    def affine(
        self, module: Any, signal: Signal, operator: Operator, shape: tuple[int, ...]
    ) -> tuple[float, float, float]:
        """Of operator(x) + bias: the bias's norm over all positions, what rounding adds, and the norm of what comes out
        of it, rounding included."""
        bias = 0.0 if module.bias is None else length(module.bias, signal.norm, shape)
        size = float(growth(operator, signal.norm).max()) * (signal.magnitude + signal.error) + bias
        # 8 × γ_{n+2}: any summation order, and whatever blocking a library's float64 convolution uses
        local = 8 * signal.rounding(operator.fan_in + 2) * size
        return bias, local, size + local

    def factor(self, normalisation: Any, name: str) -> Tensor:
        """What batch normalisation multiplies every channel by, in evaluation: γ/√(running variance + eps)."""
        if normalisation.running_var is None:
            raise ValueError(f"`{name}`: batch normalisation without running statistics is no fixed function")
        factor = (normalisation.running_var.detach().double() + normalisation.eps).rsqrt()
        return factor if normalisation.weight is None else factor * normalisation.weight.detach().double()


def rule_of(module: Any) -> Rule | None:
    """torch's own modules, by the very type: a subclass may compute something else. One whose parameters are
    parametrized computes what its type does, with the weight that it then has."""
    from lipcert.bounds.modules import RULES

    kind = type(module)
    if nn.utils.parametrize.is_parametrized(module):
        kind = kind.__mro__[1]
    return RULES.get(kind)


def length(entries: Tensor, norm: Norm, shape: tuple[int, ...]) -> float:
    """The norm of one number a channel (or a feature), repeated over all positions; rounded up."""
    entries = entries.detach().double()
    if norm is Norm.LINF:
        return float(entries.abs().max())
    positions = math.prod(shape) / entries.numel()
    return float(entries.norm()) * math.sqrt(positions) * (1 + 1e-12)


def standardised(
    normalisation: Any, factor: Tensor, bias: Tensor | None, before: float, signal: Signal, shape: tuple[int, ...]
) -> tuple[float, float]:
    """Of batch normalisation, (x + bias − mean)·factor + β: the norm of what it makes of x = 0, and what rounding adds
    where x + bias is of norm `before`."""
    mean = normalisation.running_mean.detach().double()
    beta = torch.zeros_like(mean) if normalisation.bias is None else normalisation.bias.detach().double()
    shift = (-mean if bias is None else bias.detach().double() - mean) * factor + beta
    steepest = float(factor.abs().max())
    size = steepest * (before + length(mean, signal.norm, shape)) + length(beta, signal.norm, shape)
    return length(shift, signal.norm, shape), signal.rounding(8) * size


def note_costs(rows: list[dict[str, Any]], walk: Walk, module: nn.Module, signal: Signal, name: str = "") -> None:
    """Adds to the rows of `walk` over `module` what each costs the bound: by which factor it'd be smaller, were that
    layer's norm 1. The bound is a sum of products of norms, so that its derivatives say so (but for concatenations)."""
    again = Walk(walk.measured, walk.norms, walk.measure)
    again.gains = []
    with torch.enable_grad():
        bound = again(module, signal, name).lipschitz.max()
        slopes = torch.autograd.grad(bound, again.gains, allow_unused=True) if bound.requires_grad else []
    for row, gain, slope in zip(rows, again.gains, slopes, strict=False):
        if slope is not None:
            row["cost"] = float(bound.detach() / (bound - (slope * (gain - 1)).sum()).detach())


def image_signal(shape: tuple[int, ...], unit: float = 2.0**-53, norm: Norm = Norm.L2) -> Signal:
    """The signal at the door: an image in [0, 1], exact."""
    longest = math.sqrt(math.prod(shape)) if norm is Norm.L2 else 1.0
    return Signal(tuple(shape), torch.ones((), dtype=torch.float64), longest, 0.0, unit, norm)


def branched(signal: Signal, branches: int) -> Signal:
    return replace(signal, lipschitz=signal.lipschitz.expand(branches))


def added(signals: list[Signal], name: str) -> Signal:
    """The signal behind x + y + …: Lipschitz constants, magnitudes and errors add."""
    first = signals[0]
    if any(s.shape != first.shape for s in signals):
        raise ValueError(f"`{name}`: a sum of {' and '.join(str(s.shape) for s in signals)}")
    lipschitz, magnitude = sum(s.lipschitz for s in signals), sum(s.magnitude for s in signals)
    error = sum(s.error for s in signals)
    local = first.rounding(len(signals) - 1) * (magnitude + error) if first.unit else 0.0
    return replace(first, lipschitz=lipschitz * (1 + 1e-15), magnitude=magnitude, error=error + local)


def joined(signals: list[Signal], name: str) -> Signal:
    """The signal behind a concatenation along the channels: squares add (in l_inf: the largest counts)."""
    signals = [s.merged() for s in signals]
    first = signals[0]
    if any(s.shape[1:] != first.shape[1:] for s in signals):
        raise ValueError(f"`{name}`: a concatenation of {' and '.join(str(s.shape) for s in signals)}")
    lipschitz = torch.stack([s.lipschitz for s in signals])
    shape = (sum(s.shape[0] for s in signals), *first.shape[1:])
    if first.norm is Norm.LINF:
        magnitude, error = max(s.magnitude for s in signals), max(s.error for s in signals)
        return replace(first, shape=shape, lipschitz=lipschitz.amax(0), magnitude=magnitude, error=error)
    magnitude, error = math.hypot(*[s.magnitude for s in signals]), math.hypot(*[s.error for s in signals])
    steep = lipschitz.square().sum(0).sqrt() * (1 + 1e-14)
    return replace(first, shape=shape, lipschitz=steep, magnitude=magnitude, error=error * (1 + 1e-14))
