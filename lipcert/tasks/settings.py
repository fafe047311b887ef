"""Where configuration stops being Hydra's: checked against the signatures it is meant for, then plain Python."""

from __future__ import annotations

import difflib
import inspect
import types
import typing
from collections.abc import Sequence
from typing import Any

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

OURS = ("lipcert.", "torch.optim.", "torch.nn.")
RESERVED = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")


def plain(config: DictConfig) -> dict[str, Any]:
    """The resolved configuration as plain containers; ValueError naming what can't be resolved."""
    try:
        return typing.cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "?"
        raise ValueError(f"`{key}` has no value: {str(error).splitlines()[0]}") from None


def check(node: Any, path: str = "") -> None:
    """ValueError where a `_target_` would not take what the configuration gives it: an unknown key or a wrong type."""
    if isinstance(node, list):
        for i, item in enumerate(node):
            check(item, f"{path}[{i}]")
    if not isinstance(node, dict):
        return
    if "_target_" in node:
        check_call(_locate(node["_target_"], path), {k: v for k, v in node.items() if k not in RESERVED}, path)
    for key, value in node.items():
        check(value, f"{path}.{key}" if path else key)


def check_call(target: Any, values: dict[str, Any], path: str = "") -> None:
    """ValueError where `target(**values)` would get a keyword that it does not know or a value of the wrong type."""
    call = target.__init__ if inspect.isclass(target) else target
    parameters = inspect.signature(call).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    try:
        hints = typing.get_type_hints(call)
    except (NameError, TypeError):  # annotations that only a type checker can resolve
        hints = {}
    for key, value in values.items():
        full = f"{path}.{key}" if path else key
        if key not in parameters and not open_ended:
            raise ValueError(f"`{full}` is not a key of {target.__name__}{nearest(key, list(parameters))}")
        if key in hints and not fits(value, hints[key]):
            raise ValueError(f"`{full}` must be {_name(hints[key])}, got {value!r}")


def fits(value: Any, hint: Any) -> bool:
    """Whether a configured value is of the annotated type; annotations that no YAML value could meet always fit."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is typing.Literal:
        return value in arguments
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str):
        return isinstance(value, hint)
    if hint is type(None):
        return value is None
    if origin in (list, tuple, Sequence) or origin is typing.get_origin(Sequence[int]):
        return isinstance(value, list) and (not arguments or all(fits(v, arguments[0]) for v in value))
    return True


def _name(hint: Any) -> str:
    return getattr(hint, "__name__", None) if inspect.isclass(hint) else str(hint).replace("collections.abc.", "")


def nearest(word: str, choices: Sequence[str]) -> str:
    found = difflib.get_close_matches(word, choices, 1, 0.5)
    return f"; did you mean `{found[0]}`?" if found else ""


def check_trusted(config: Any, trust: bool, source: str) -> None:
    """ValueError if a configuration read from a file names code that is neither ours nor torch's own."""
    if trust:
        return
    if isinstance(config, dict):
        target = config.get("_target_")
        if target is not None and not str(target).startswith(OURS):
            raise ValueError(f"{source} names `_target_: {target}`, which is code of neither lipcert nor torch.nn or "
                             "torch.optim; say trust=true if you trust the file")
    for item in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
        check_trusted(item, trust, source)


def build(node: Any, **extra: Any) -> Any:
    """Instantiates a checked node; whatever its constructor raises as ValueError reaches the user as it is."""
    from hydra.errors import InstantiationException

    try:
        return instantiate(node, **extra, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError):
            raise error.__cause__ from None
        raise


def _locate(name: str, path: str) -> Any:
    try:
        return get_object(name)
    except Exception as error:
        raise ValueError(f"`{path}._target_`: {name} cannot be imported ({str(error).splitlines()[0]})") from None
