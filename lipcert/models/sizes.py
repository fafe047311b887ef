"""Checks of the sizes that a model is built with."""

from __future__ import annotations

from collections.abc import Sequence


def check_sizes(least: int = 1, **sizes: int | Sequence[int] | None) -> None:
    """Raises ValueError, which names the key, where a size, or one of a list of them, is below `least`.

    sizes  by the key of `model`; None is left alone
    """
    for key, size in sizes.items():
        few = () if size is None else [size] if isinstance(size, int) else size
        if any(one < least for one in few):
            raise ValueError(f"`model.{key}` must be at least {least}, got {size}")
