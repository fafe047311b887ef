"""The check of one configured value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def check(key: str, value: Any, wanted: str, allowed: Callable[[Any], object]) -> None:
    """Refuses a value in one line.

    key: what messages call it, as `dataset.seed`. wanted: what it must be, in words. allowed: what is false for a value
    that is not; one of a wrong type may also make it fail.
    Raises ValueError with the key, what it must be, and the value.
    """
    try:
        fine = allowed(value)
    except (TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError):
        fine = False
    if not fine:
        raise ValueError(f"`{key}` must be {wanted}, got {' '.join(repr(value).split())}")
