"""y[i, j] = ‖xᵢ − wⱼ‖_p, the layer of l∞-distance nets (Zhang et al., ICML 2021), trained with p from 8 to ∞.

There are two operators, forward and backward, which `torch.compile` does not look into; it compiles again for each p.
No backend holds the (B, m, n) differences.
"""

from __future__ import annotations

import math
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from lipcert.kernels import cpu, reference

DTYPES = (torch.float32, torch.float64)


def lp_distance(x: Tensor, w: Tensor, p: float) -> Tensor:
    """Distances (B, m) in l_p, 1 ≤ p ≤ ∞, between rows x (B, n) and w (m, n), with gradients to both.

    Equal rows have distance and gradient 0. At p = ∞ the gradient goes to the first of the largest differences. Raises
    ValueError for other shapes, types or p, and for tensors on different devices.
    """
    _check(x=x, w=w)
    if not p >= 1:
        raise ValueError(f"`p` must lie in [1, inf], got {p}")
    indexed = p == math.inf and torch.is_grad_enabled() and (x.requires_grad or w.requires_grad)
    return torch.ops.lipcert.lp_distance(x, w, p, indexed)[0]


def linf_bounds(low: Tensor, high: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """The range (lower, upper), each (B, m), of ‖x − wⱼ‖_∞ over low ≤ x ≤ high, without a gradient.

    It is exact except for the rounding of one difference, to nearest. Raises ValueError as `lp_distance` does.
    """
    _check(low=low, w=w)
    _check(high=high, w=w)
    if low.shape != high.shape:
        raise ValueError(f"`low` and `high` must have one shape, got {tuple(low.shape)} and {tuple(high.shape)}")
    with torch.no_grad():
        low, high, w = low.contiguous(), high.contiguous(), w.contiguous()
        return backend(low, math.inf).linf_bounds(low, high, w)


def _check(**tensors: Tensor) -> None:
    (name, x), (_, w) = tensors.items()
    if x.dim() != 2 or w.dim() != 2 or x.shape[1] != w.shape[1] or x.shape[1] == 0:
        raise ValueError(f"`{name}` and `w` must be (B, n) and (m, n) with n >= 1, got {(*x.shape,)} and {(*w.shape,)}")
    if x.dtype != w.dtype or x.dtype not in DTYPES:
        raise ValueError(f"`{name}` and `w` must be both float32 or both float64, got {x.dtype} and {w.dtype}")
    if x.device != w.device:
        raise ValueError(f"`{name}` and `w` must lie on one device, got {x.device} and {w.device}")


def backend(x: Tensor, p: float) -> ModuleType:
    """The module with `forward`, `backward` and `linf_bounds` for tensors like x: gpu, cpu or reference."""
    if x.is_cuda:
        return _gpu()
    if x.is_cpu and (x.dtype == torch.float32 or p == math.inf) and cpu.library():
        return cpu
    return reference


@cache
def _gpu() -> ModuleType:
    return import_module("lipcert.kernels.gpu") if find_spec("triton") else reference


FORWARD, BACKWARD = "lipcert::lp_distance", "lipcert::lp_distance_backward"
torch.library.define(FORWARD, "(Tensor x, Tensor w, float p, bool indexed) -> (Tensor, Tensor)")
torch.library.define(
    BACKWARD,
    "(Tensor grad, Tensor x, Tensor w, Tensor y, Tensor index, float p, bool need_x, bool need_w) -> (Tensor, Tensor)",
)


@torch.library.impl(FORWARD, "default")
def _forward(x: Tensor, w: Tensor, p: float, indexed: bool) -> tuple[Tensor, Tensor]:
    """y, and the int32 positions (B, m) of the maxima for the gradient at p = ∞, empty unless `indexed`."""
    return backend(x, p).forward(x.contiguous(), w.contiguous(), p, indexed)


@torch.library.impl(BACKWARD, "default")
def _backward(
    grad: Tensor, x: Tensor, w: Tensor, y: Tensor, index: Tensor, p: float, need_x: bool, need_w: bool
) -> tuple[Tensor, Tensor]:
    """The gradients to x and w, each empty unless needed."""
    grad, x, w, y, index = (tensor.contiguous() for tensor in (grad, x, w, y, index))
    return backend(x, p).backward(grad, x, w, y, index, p, need_x, need_w)


@torch.library.register_fake(FORWARD)
def _fake_forward(x, w, p, indexed):
    pairs = (x.shape[0], w.shape[0])
    return x.new_empty(pairs), x.new_empty(pairs if indexed else (0,), dtype=torch.int32)


@torch.library.register_fake(BACKWARD)
def _fake_backward(grad, x, w, y, index, p, need_x, need_w):
    return x.new_empty(x.shape if need_x else (0,)), w.new_empty(w.shape if need_w else (0,))


def _save(ctx, inputs, output) -> None:
    x, w, ctx.p, _ = inputs
    ctx.save_for_backward(x, w, *output)


def _differentiate(ctx, grad, _):
    x, w, y, index = ctx.saved_tensors
    need_x, need_w, *_ = ctx.needs_input_grad
    gx, gw = torch.ops.lipcert.lp_distance_backward(grad, x, w, y, index, ctx.p, need_x, need_w)
    return gx if need_x else None, gw if need_w else None, None, None


torch.library.register_autograd(FORWARD, _differentiate, setup_context=_save)


def _refuse(ctx, *grads):
    raise RuntimeError("`lp_distance` has first derivatives only")


torch.library.register_autograd(BACKWARD, _refuse)
