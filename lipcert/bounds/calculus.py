"""The Lipschitz calculus: a sound bound for any network of known parts, with the rounding error of evaluating it.

A layer of ours brings its rule as a method `bound(signal, walk, name)` in its own file; torch's own modules have theirs
below. An unknown module is an error that names it, never a silent 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lipcert.bounds.operator_norm import convolution_norm, entrywise_norm, matrix_norm
from lipcert.contracts import Norm, Signal

TOLERANCE = 1e-8  # a layer that claims 1 and measures 1 + 1e-12 has rounded, not expanded


class Walk:
    """Carries a Signal through a network in float64; `rows` collects one entry a linear layer.

    measured=True uses every layer's real operator norm; False uses what its scheme claims, where it claims something.
    ValueError, naming the layer, where a layer is unknown, doesn't fit, or measures more than it claims.
    """

    def __init__(self, measured: bool = True, norms: dict[nn.Module, Tensor] | None = None):
        self.measured = measured
        self.norms = {} if norms is None else norms  # measured once a layer; hand them on to a second walk
        self.rows: list[dict[str, Any]] = []

    def __call__(self, module: nn.Module, signal: Signal, name: str = "") -> Signal:
        own: Any = getattr(module, "bound", None)
        if own is not None:
            order = type(module).__mro__
            forward, bound = (next(i for i, c in enumerate(order) if m in vars(c)) for m in ("forward", "bound"))
            if forward < bound:  # inherited: a rule of what the parent computes
                kind = type(module).__name__
                raise ValueError(f"`{name or 'model'}`: {kind} has a `forward` of its own, so it needs its own `bound`")
            if signal.norm not in getattr(module, "norms", (getattr(module, "norm", Norm.L2),)):
                raise ValueError(f"`{name or 'model'}`: {type(module).__name__} has no Lipschitz rule in {signal.norm}")
            return own(signal, self, name)
        rule = RULES[signal.norm].get(type(module))  # the very type: a subclass may compute something else
        if rule is None:
            hint = (
                "fold the network first" if hasattr(module, "fold") else "give it a method `bound(signal, walk, name)`"
            )
            where = "" if signal.norm is Norm.L2 else f" in {signal.norm}"
            raise ValueError(f"`{name or 'model'}`: no Lipschitz rule for {type(module).__name__}{where}; {hint}")
        return rule(self, module, signal, name)

    def matrices(self, name: str, module: Any, signal: Signal, weight: Tensor, shape: tuple[int, ...]) -> Signal:
        """The signal behind matrices (G, m, n): one for everything, or one a branch."""
        if module not in self.norms:
            self.norms[module] = matrix_norm(weight)
        return self.record(name, module, signal, weight.detach().double(), shape)

    def record(
        self,
        name: str,
        module: Any,
        signal: Signal,
        matrix: Tensor,
        shape: tuple[int, ...],
        positions: int = 1,
        tiles: int = 1,
    ) -> Signal:
        norms, claim = self.norms[module], getattr(module, "claim", None)
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
        row: dict[str, Any] = {"layer": name, "norm": float(norms.max())}
        if claim is not None:
            reshaped = matrix_norm(matrix) * tiles  # what b(W) could have claimed, had it been exact
            row |= {
                "claim": float(claimed.max()),
                "gram_slack": float((claimed / reshaped).max()),
                "tiling_slack": float((reshaped / norms).max()),
            }
        self.rows.append(row)
        fan_in = matrix.shape[-1]
        growth = float(entrywise_norm(matrix).max()) * tiles
        bias = 0.0 if module.bias is None else float(module.bias.detach().double().norm()) * math.sqrt(positions)
        # 8 × γ_{n+2}: any summation order, and whatever blocking a library's float64 convolution uses
        local = 8 * signal.rounding(fan_in + 2) * (growth * (signal.magnitude + signal.error) + bias)
        return signal.after(shape, gain=gain if branched else gain.max(), offset=bias, local=local)


def _branched(signal: Signal, branches: int) -> Signal:
    return replace(signal, lipschitz=signal.lipschitz.expand(branches))


def image_signal(shape: tuple[int, ...], unit: float = 2.0**-53, norm: Norm = Norm.L2) -> Signal:
    """The signal at the door: an image in [0, 1], exact."""
    longest = math.sqrt(math.prod(shape)) if norm is Norm.L2 else 1.0
    return Signal(tuple(shape), torch.ones((), dtype=torch.float64), longest, 0.0, unit, norm)


def _sequential(walk: Walk, module: Any, signal: Signal, name: str) -> Signal:
    for key, child in module.named_children():
        signal = walk(child, signal, f"{name}.{key}" if name else key)
    return signal


def _exact(walk: Walk, module: Any, signal: Signal, name: str) -> Signal:
    return signal.after()


def _flatten(walk: Walk, module: Any, signal: Signal, name: str) -> Signal:
    return signal.after((math.prod(signal.shape),))


def _tanh(walk: Walk, module: Any, signal: Signal, name: str) -> Signal:
    return signal.after(roundings=4)


def _max_pool(walk: Walk, module: Any, signal: Signal, name: str) -> Signal:
    shape = _windows(module, signal, name)
    return signal.after(shape, gain=float(math.ceil(module.kernel_size / module.stride)))


def _linear(walk: Walk, module: Any, signal: Signal, name: str) -> Signal:
    _check_features(module, signal, name)
    if len(getattr(module, "claim", [1.0])) > 1:  # unit rows: every output is a branch by itself
        return walk.matrices(
            name, module, _branched(signal, module.out_features), module.weight[:, None], (module.out_features,)
        )
    return walk.matrices(name, module, signal, module.weight[None], (module.out_features,))


def _convolution(walk: Walk, module: Any, signal: Signal, name: str) -> Signal:
    shape = _convolved(module, signal, name)
    (k, _), (s, _), (p, _) = module.kernel_size, module.stride, module.padding
    if module not in walk.norms:
        kernels = module.weight.detach().double().chunk(module.groups)
        _, h, w = signal.shape
        walk.norms[module] = torch.stack([convolution_norm(kernel, s, p, (h, w)) for kernel in kernels])
    matrix = module.weight.detach().double().view(module.groups, -1, module.weight[0].numel())
    return walk.record(name, module, signal, matrix, shape, positions=shape[1] * shape[2], tiles=math.ceil(k / s))


def _max_pool_linf(walk: Walk, module: Any, signal: Signal, name: str) -> Signal:
    return signal.after(_windows(module, signal, name))


def _linear_linf(walk: Walk, module: Any, signal: Signal, name: str) -> Signal:
    _check_features(module, signal, name)
    return _row_sums(walk, module, signal, name, (module.out_features,))


def _convolution_linf(walk: Walk, module: Any, signal: Signal, name: str) -> Signal:
    return _row_sums(walk, module, signal, name, _convolved(module, signal, name))


def _row_sums(walk: Walk, module: Any, signal: Signal, name: str, shape: tuple[int, ...]) -> Signal:
    """Behind a map whose rows are those of `weight`: in l_inf its norm is their largest sum of magnitudes."""
    rows = module.weight.detach().double().flatten(1).abs()
    n = rows.shape[1]
    gain = rows.sum(1).max() * (1 + 2 * n * 2.0**-53)
    bias = 0.0 if module.bias is None else float(module.bias.detach().double().abs().max())
    walk.rows.append({"layer": name, "norm": float(gain)})
    local = 8 * signal.rounding(n + 2) * (float(gain) * (signal.magnitude + signal.error) + bias)
    return signal.after(shape, gain=gain, offset=bias, local=local)


def _check_features(module: Any, signal: Signal, name: str) -> None:
    if signal.shape != (module.in_features,):
        raise ValueError(f"`{name}`: {module.in_features} features expected, {signal.shape} found")


def _convolved(module: Any, signal: Signal, name: str) -> tuple[int, int, int]:
    (k, k2), (s, s2), (p, p2) = module.kernel_size, module.stride, module.padding
    if (k, s, p) != (k2, s2, p2) or module.padding_mode != "zeros" or module.dilation != (1, 1):
        raise ValueError(f"`{name}`: only square, zero-padded, undilated convolutions have a rule")
    c, h, w = signal.shape
    shape = (module.out_channels, (h + 2 * p - k) // s + 1, (w + 2 * p - k) // s + 1)
    if c != module.in_channels or min(shape) < 1:
        raise ValueError(f"`{name}`: {module.in_channels} channels of at least {k}×{k} expected, {signal.shape} found")
    return shape


def _windows(module: Any, signal: Signal, name: str) -> tuple[int, int, int]:
    k, s, p = module.kernel_size, module.stride, module.padding
    c, h, w = signal.shape
    shape = (c, (h + 2 * p - k) // s + 1, (w + 2 * p - k) // s + 1)
    if min(shape) < 1:
        raise ValueError(f"`{name}`: a {k}×{k} window does not fit {h}×{w}")
    return shape


_ANY: dict[type[nn.Module], Callable[[Walk, Any, Signal, str], Signal]] = {
    nn.Sequential: _sequential,
    nn.Identity: _exact,
    nn.Dropout: _exact,
    nn.ReLU: _exact,
    nn.Flatten: _flatten,
}
RULES = {
    Norm.L2: {**_ANY, nn.MaxPool2d: _max_pool, nn.Linear: _linear, nn.Conv2d: _convolution},
    Norm.LINF: {
        **_ANY,
        nn.Tanh: _tanh,
        nn.MaxPool2d: _max_pool_linf,
        nn.Linear: _linear_linf,
        nn.Conv2d: _convolution_linf,
    },
}
