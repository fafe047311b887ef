"""Functions that torch.export keeps as one operation, because their properties are not visible in their parts."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

LIBRARY = torch.library.Library("lipcert", "FRAGMENT")


def kept_whole(schema: str, shape: Callable[..., Any] | None = None) -> Callable[[Callable], Callable]:
    """Decorates the function that `schema` describes, such as "double(Tensor x) -> Tensor".

    While torch.export captures a network, a call is recorded as the one operation `lipcert::double`; at other times it
    is a call of the plain function, at no cost. `shape`, with the function's arguments, returns an empty result of the
    right shape, for functions that cannot run on tensors without values.
    """
    name = schema.partition("(")[0]

    def decorate(function: Callable) -> Callable:
        LIBRARY.define(schema)
        LIBRARY.impl(name, function, "CompositeImplicitAutograd" if shape is None else "CompositeExplicitAutograd")
        if shape is not None:
            torch.library.register_fake(f"lipcert::{name}", shape, lib=LIBRARY)
        operation = getattr(torch.ops.lipcert, name)

        @wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            return (operation if torch.compiler.is_exporting() else function)(*arguments, **options)

        return call

    return decorate
