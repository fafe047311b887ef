"""The rules of torch's own modules, in l2 and l_inf: `rule(walk, module, signal, name)` is the signal behind one."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipcert.bounds.calculus import Rule, Walk, branched, standardised
from lipcert.bounds.operator_norm import matrix_norm
from lipcert.bounds.operators import Convolution, Matrices
from lipcert.contracts import Norm, Signal


def _exact(walk: Walk, module: Any, signal: Signal, name: str) -> Signal:
    return signal.after()


def _flatten(walk: Walk, module: Any, signal: Signal, name: str) -> Signal:
    if (module.start_dim, module.end_dim) != (1, -1):
        raise ValueError(f"`{name}`: only Flatten() of all but the batch axis has a Lipschitz rule")
    return signal.merged().after((math.prod(signal.shape),))


def linear(walk: Walk, module: Any, signal: Signal, name: str, normalisation: nn.Module | None = None) -> Signal:
    if signal.shape != (module.in_features,):
        raise ValueError(f"`{name}`: {module.in_features} features expected, {signal.shape} found")
    signal, weight = signal.merged(), module.weight[None]
    if len(getattr(module, "claim", [1.0])) > 1:  # unit rows: every output is a branch by itself
        signal, weight = branched(signal, module.out_features), module.weight[:, None]
    return walk.linear(name, module, signal, Matrices(weight), (module.out_features,), normalisation)


def convolution(walk: Walk, module: Any, signal: Signal, name: str, normalisation: nn.Module | None = None) -> Signal:
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise ValueError(f"`{name}`: only zero padding, given in numbers, has a Lipschitz rule")
    taps = [d * (k - 1) + 1 for k, d in zip(module.kernel_size, module.dilation, strict=True)]
    wanted = f"{module.in_channels} channels of at least {taps[0]}×{taps[1]}"
    if len(signal.shape) != 3 or signal.shape[0] != module.in_channels:
        raise ValueError(f"`{name}`: {wanted} expected, {signal.shape} found")
    around = zip(signal.shape[1:], module.padding, taps, module.stride, strict=True)
    sides = [(n + 2 * p - k) // s + 1 for n, p, k, s in around]
    if min(sides) < 1:
        raise ValueError(f"`{name}`: {wanted} expected, {signal.shape} found")
    operator = Convolution.of(module, (signal.shape[1], signal.shape[2]))
    return walk.linear(name, module, signal, operator, (module.out_channels, *sides), normalisation)


def batch_norm(walk: Walk, module: Any, signal: Signal, name: str) -> Signal:
    """By itself: a diagonal map."""
    if signal.shape[0] != module.num_features:
        raise ValueError(f"`{name}`: {module.num_features} channels expected, {signal.shape} found")
    factor = walk.factor(module, name)
    steepest = factor.abs().max() * (1 + 1e-12)
    if not signal.unit:
        return signal.after(gain=steepest)
    offset, local = standardised(module, factor, None, signal.magnitude + signal.error, signal, signal.shape)
    return walk.carried({"layer": name, "norm": float(steepest)}, signal, signal.shape, steepest, offset, local)


def _elementwise(slope: Callable[[Any], float], at_zero: Callable[[Any], float] = lambda module: 0.0) -> Rule:
    """x ↦ f(x) in each entry: its steepest slope, and |f(0)|."""

    def rule(walk: Walk, module: Any, signal: Signal, name: str) -> Signal:
        gain, zero = float(slope(module)) * (1 + 1e-12), abs(float(at_zero(module)))
        offset = zero * (math.sqrt(math.prod(signal.shape)) if signal.norm is Norm.L2 else 1.0)
        return signal.after(
            gain=gain, offset=offset, local=signal.rounding(16) * (gain * (signal.magnitude + signal.error) + offset)
        )

    return rule


def _softplus(walk: Walk, module: Any, signal: Signal, name: str) -> Signal:
    out = _elementwise(lambda m: 1.0, lambda m: math.log(2) / m.beta)(walk, module, signal, name)
    entries = math.sqrt(math.prod(signal.shape)) if signal.norm is Norm.L2 else 1.0
    step = math.exp(-module.threshold) / abs(module.beta)  # torch goes over to x there
    return out.after(local=step * entries)


def _max_pool(walk: Walk, module: Any, signal: Signal, name: str) -> Signal:
    if module.return_indices or any(d != 1 for d in _pair(module.dilation)):
        raise ValueError(f"`{name}`: only max-pooling without dilation and indices has a Lipschitz rule")
    matrices = _windows(module, signal, name, F.avg_pool1d, ceil_mode=module.ceil_mode)
    return _maximum(signal, matrices)


def _adaptive_max_pool(walk: Walk, module: Any, signal: Signal, name: str) -> Signal:
    if module.return_indices:
        raise ValueError(f"`{name}`: only max-pooling without indices has a Lipschitz rule")
    return _maximum(signal, _adaptive(module, signal))


def _maximum(signal: Signal, matrices: list[Tensor]) -> Signal:
    """Theorem 3 of Tsuzuku et al.: √n, where n windows share an entry at most."""
    shape = (signal.shape[0], *(len(m) for m in matrices))
    if signal.norm is Norm.LINF:
        return signal.after(shape)
    return signal.after(shape, gain=math.prod(math.sqrt(float((m > 0).sum(0).max())) for m in matrices))


def _average_pool(walk: Walk, module: Any, signal: Signal, name: str) -> Signal:
    if module.divisor_override:
        raise ValueError(f"`{name}`: average pooling with a divisor of its own has no Lipschitz rule")
    more = {"ceil_mode": module.ceil_mode, "count_include_pad": module.count_include_pad}
    return _average(signal, _windows(module, signal, name, F.avg_pool1d, **more))


def _adaptive_average_pool(walk: Walk, module: Any, signal: Signal, name: str) -> Signal:
    return _average(signal, _adaptive(module, signal))


def _average(signal: Signal, matrices: list[Tensor]) -> Signal:
    """Averaging is one matrix along each axis, and the norm of their Kronecker product the product of their norms:
    never above what Theorem 3 says of it, √n/√k."""
    shape = (signal.shape[0], *(len(m) for m in matrices))
    if signal.norm is Norm.L2:
        gain = math.prod(float(matrix_norm(m)) for m in matrices)
    else:
        gain = math.prod(float(m.sum(1).max()) * (1 + 1e-12) for m in matrices)
    terms = math.prod(m.shape[1] for m in matrices)
    local = 2 * signal.rounding(terms + 2) * gain * (signal.magnitude + signal.error)
    return signal.after(shape, gain=gain * (1 + 1e-12), local=local)


def _windows(module: Any, signal: Signal, name: str, pool: Callable[..., Tensor], **options: Any) -> list[Tensor]:
    """What `pool` does along each of the two axes, as a matrix (out, in): its images of the unit vectors."""
    kernel, padding = _pair(module.kernel_size), _pair(module.padding)
    stride = _pair(module.kernel_size if module.stride is None else module.stride)
    if len(signal.shape) != 3 or any(n + 2 * p < k for n, p, k in zip(signal.shape[1:], padding, kernel, strict=True)):
        raise ValueError(f"`{name}`: a {kernel[0]}×{kernel[1]} window does not fit {signal.shape}")
    axes = zip(signal.shape[1:], kernel, stride, padding, strict=True)
    return [_matrix(partial(pool, kernel_size=k, stride=s, padding=p, **options), n) for n, k, s, p in axes]


def _adaptive(module: Any, signal: Signal) -> list[Tensor]:
    sides = zip(signal.shape[1:], _pair(module.output_size), strict=True)
    return [_matrix(partial(F.adaptive_avg_pool1d, output_size=out or n), n) for n, out in sides]


def _matrix(pool: Callable[[Tensor], Tensor], size: int) -> Tensor:
    return pool(torch.eye(size, dtype=torch.float64)[:, None])[:, 0].T


def _pair(value: Any) -> tuple[Any, Any]:
    return tuple(value) if isinstance(value, tuple | list) else (value, value)


SELU = 1.0507009873554805 * 1.6732632423543772
# Largest slopes of x·Φ(x), at x = √2: 1/2 + erf(1)/2 + exp(−1)/√π; of its tanh form, and of x·sigmoid(x): by search.
GELU = {"none": 0.5 + math.erf(1) / 2 + math.exp(-1) / math.sqrt(math.pi), "tanh": 1.1300}
SILU = 1.0999

RULES: dict[type[nn.Module], Rule] = {
    nn.Identity: _exact,
    nn.Dropout: _exact,
    nn.Dropout2d: _exact,
    nn.ReLU: _exact,
    nn.Flatten: _flatten,
    nn.Linear: linear,
    nn.Conv2d: convolution,
    nn.BatchNorm1d: batch_norm,
    nn.BatchNorm2d: batch_norm,
    nn.MaxPool2d: _max_pool,
    nn.AdaptiveMaxPool2d: _adaptive_max_pool,
    nn.AvgPool2d: _average_pool,
    nn.AdaptiveAvgPool2d: _adaptive_average_pool,
    nn.ReLU6: _exact,
    nn.Hardtanh: _elementwise(lambda m: 1.0, lambda m: max(m.min_val, min(0.0, m.max_val))),
    nn.LeakyReLU: _elementwise(lambda m: max(1.0, abs(m.negative_slope))),
    nn.PReLU: _elementwise(lambda m: m.weight.detach().abs().max().clamp_min(1.0)),
    nn.ELU: _elementwise(lambda m: max(1.0, abs(m.alpha))),
    nn.CELU: _elementwise(lambda m: 1.0 if m.alpha > 0 else math.inf),
    nn.SELU: _elementwise(lambda m: SELU),
    nn.Softplus: _softplus,
    nn.Sigmoid: _elementwise(lambda m: 0.25, lambda m: 0.5),
    nn.Tanh: _elementwise(lambda m: 1.0),
    nn.GELU: _elementwise(lambda m: GELU[m.approximate]),
    nn.SiLU: _elementwise(lambda m: SILU),
}
