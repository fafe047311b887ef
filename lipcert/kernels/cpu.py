"""The C kernels of csrc/, for contiguous tensors in float32, and in float64 at p = ∞.

setup.py builds them where it finds a compiler, and ctypes calls them.
"""

from __future__ import annotations

import ctypes
import os
import sysconfig
import warnings
from ctypes import c_double, c_int, c_long, c_void_p
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

LIBRARY = Path(__file__).with_name(f"_cpu{sysconfig.get_config_var('EXT_SUFFIX')}")
LEVELS = ("avx512", "avx2", "baseline")  # sets of instructions, fastest first
REBUILD = "install a C compiler and run `pip install --force-reinstall --no-deps` on lipcert's source"


class Kernels(ctypes.Structure):
    """`struct kernels` of csrc/kernels.h: the functions of a level for one type."""

    _fields_ = (
        ("forward", ctypes.CFUNCTYPE(None, *[c_void_p] * 4, *[c_long] * 3, c_double, c_int)),
        ("backward", ctypes.CFUNCTYPE(None, *[c_void_p] * 7, *[c_long] * 3, c_double, c_int)),
        ("bounds", ctypes.CFUNCTYPE(None, *[c_void_p] * 5, *[c_long] * 3, c_int)),
    )


def load(level: str) -> dict[torch.dtype, Kernels] | None:
    """The kernels of a level by type, or None if this machine lacks its instructions."""
    try:
        find = ctypes.CDLL(str(LIBRARY)).lipcert_kernels
    except (OSError, AttributeError) as error:
        raise ImportError(f"{LIBRARY} cannot be loaded ({error}): remove it, or {REBUILD}") from error
    find.argtypes, find.restype = (ctypes.c_char_p, c_int), ctypes.POINTER(Kernels)
    tables = {dtype: find(level.encode(), dtype == torch.float64) for dtype in (torch.float32, torch.float64)}
    return {dtype: table[0] for dtype, table in tables.items()} if all(tables.values()) else None


@cache
def library() -> dict[torch.dtype, Kernels] | None:
    """The kernels of the best level, or of the level in LIPCERT_CPU_KERNEL; None if the reference is to be used."""
    wanted = os.environ.get("LIPCERT_CPU_KERNEL")
    if wanted == "reference":
        return None
    if wanted not in (None, *LEVELS):
        raise ValueError(f"`LIPCERT_CPU_KERNEL` must be one of {', '.join(LEVELS)}, reference, got {wanted!r}")
    if not LIBRARY.exists():
        warnings.warn(f"lipcert's C kernels are not built, and slow ones take their place: {REBUILD}", stacklevel=2)
        return None
    for level in LEVELS if wanted is None else (wanted,):
        if kernels := load(level):
            return kernels
    raise ValueError(f"`LIPCERT_CPU_KERNEL`: this machine lacks the instructions of {wanted!r}")


def forward(x: Tensor, w: Tensor, p: float, indexed: bool) -> tuple[Tensor, Tensor]:
    y = x.new_empty(len(x), len(w))
    index = x.new_empty(y.shape if indexed else (0,), dtype=torch.int32)
    _kernels(x).forward(*_addresses(x, w, y, index), *_sizes(x, w), p, _threads(x, w))
    return y, index


def backward(
    grad: Tensor, x: Tensor, w: Tensor, y: Tensor, index: Tensor, p: float, need_x: bool, need_w: bool
) -> tuple[Tensor, Tensor]:
    gx = x.new_empty(x.shape if need_x else (0,))
    gw = w.new_empty(w.shape if need_w else (0,))
    addresses = _addresses(grad, x, w, y, index, gx, gw)
    _kernels(x).backward(*addresses, *_sizes(x, w), p, _threads(x, w))
    return gx, gw


def linf_bounds(low: Tensor, high: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    lower, upper = (low.new_empty(len(low), len(w)) for _ in range(2))
    _kernels(low).bounds(*_addresses(low, high, w, lower, upper), *_sizes(low, w), _threads(low, w))
    return lower, upper


def _kernels(x: Tensor) -> Kernels:
    kernels = library()
    assert kernels
    return kernels[x.dtype]


def _addresses(*tensors: Tensor) -> list[int | None]:
    """The addresses of the tensors' data, None for an empty tensor."""
    return [tensor.data_ptr() or None for tensor in tensors]


def _sizes(x: Tensor, w: Tensor) -> tuple[int, int, int]:
    return len(x), len(w), x.shape[1]


def _threads(x: Tensor, w: Tensor) -> int:
    """The number of torch's threads, or 1 where starting them would take longer than the work."""
    return torch.get_num_threads() if x.numel() * len(w) > 2**16 else 1
