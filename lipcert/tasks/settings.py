"""Where configuration stops being Hydra's: checked against the signatures it is meant for, then plain Python."""

from __future__ import annotations

import enum
import inspect
import logging
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from lipcert.tasks.choices import nearest
from lipcert.tasks.errors import one_line

PARTS = ("attacks", "certificates", "datasets", "layers", "losses", "models", "optimizers", "schedules")
OURS = tuple(f"lipcert.{part}." for part in PARTS)
TORCHS = ("torch.optim.", "torch.nn.")
RESERVED = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")
SUPPLIED = {"model": ("input_shape", "num_classes"), "loss": ("num_classes",)}  # not configured: the data set decides
MENDABLE = (ValueError, TypeError, RuntimeError, IndexError, ArithmeticError)  # what bad values make of a constructor


def plain(config: DictConfig) -> dict[str, Any]:
    """The resolved configuration as plain containers; ValueError naming what can't be resolved."""
    try:
        return typing.cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    except MissingMandatoryValue as error:
        raise ValueError(f"`{error.full_key}` must be given: {error.full_key}=...") from None
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
        values = {k: v for k, v in node.items() if k not in RESERVED}
        unfinished = node.get("_partial_") or "_args_" in node
        check_call(locate(node["_target_"], path), values, path, SUPPLIED.get(path, ()), bool(unfinished))
    for key, value in node.items():
        check(value, f"{path}.{key}" if path else key)


def check_call(
    target: Any,
    values: dict[str, Any],
    path: str = "",
    supplied: Collection[str] = (),
    unfinished: bool = False,
    called: str = "",
) -> None:
    """ValueError where `target(**values)` would miss a keyword, get one that it does not know, or a wrong type.

    It is also given the keywords `supplied`; if `unfinished`, others too. `called`: what messages call the target."""
    called = called or target.__name__
    call = target.__init__ if inspect.isclass(target) else target
    parameters = {name: p for name, p in inspect.signature(call).parameters.items() if name != "self"}
    try:
        hints = typing.get_type_hints(call)
    except (NameError, TypeError):  # annotations that only a type checker can resolve
        hints = {}
    extra = next((name for name, p in parameters.items() if p.kind is p.VAR_KEYWORD), None)
    for key, value in values.items():
        full = f"{path}.{key}" if path else key
        if key not in parameters and extra is None:
            raise ValueError(f"`{full}` is not a key of {called}{nearest(key, list(parameters))}")
        hint = hints.get(key if key in parameters else str(extra), Any)
        if not fits(value, hint):
            raise ValueError(f"`{full}` must be {_name(hint)}, got {value!r}")
    for name, p in parameters.items():
        required = p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        if required and not unfinished and name not in values and name not in supplied:
            raise ValueError(f"`{f'{path}.{name}' if path else name}` must be given: {called} needs it")


def fits(value: Any, hint: Any) -> bool:
    """Whether a configured value is of the annotated type; annotations that no YAML value could meet always fit."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, argument) for argument in [a for a in arguments if _is_plain(a)] or arguments)
    if origin is typing.Literal:
        return value in arguments
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str):
        return isinstance(value, hint)
    if hint is types.NoneType:
        return value is None
    if (origin or hint) in (dict, Mapping):
        return isinstance(value, dict)
    if (origin or hint) is tuple and arguments and arguments[-1] is not ...:
        return isinstance(value, list) and len(value) == len(arguments) and all(map(fits, value, arguments))
    if (origin or hint) in (list, tuple, Sequence):
        return isinstance(value, list) and all(fits(item, arguments[0]) for item in value if arguments)
    if _is_part(hint):
        return isinstance(value, dict) and "_target_" in value
    return True


def _is_plain(hint: Any) -> bool:
    """Whether a YAML value can be of this type, or be built to be."""
    hint = typing.get_origin(hint) or hint
    plain_types = (bool, int, float, str, types.NoneType, dict, list, tuple, Mapping, Sequence, typing.Literal)
    return hint in plain_types or _is_part(hint)


def _is_part(hint: Any) -> bool:
    """Whether it is built from a `_target_` of its own: something callable, or an object of ours."""
    hint = typing.get_origin(hint) or hint
    return hint is Callable or (
        inspect.isclass(hint) and hint.__module__.startswith("lipcert.") and not issubclass(hint, enum.Enum)
    )


def _name(hint: Any) -> str:
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_name(a) for a in [a for a in arguments if _is_plain(a)] or arguments)
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if _is_part(hint):
        return "a node with a `_target_`"
    if hint is types.NoneType:
        return "null"
    if typing.get_origin(hint) in (list, Sequence):
        return f"a list of {_name(arguments[0])}"
    return hint.__name__ if inspect.isclass(hint) and not arguments else str(hint).replace("collections.abc.", "")


def check_trusted(config: Any, trust: bool, source: str) -> None:
    """ValueError if a configuration read from a file names code that is neither ours nor torch's own."""
    if trust:
        return
    if isinstance(config, dict):
        target = config.get("_target_")
        if target is not None and not is_ours(str(target)):
            raise ValueError(
                f"{source} names `_target_: {target}`, which is no part of lipcert, torch.nn or "
                "torch.optim; say trust=true if you trust the file"
            )
    if isinstance(config, str) and "${" in config:  # OmegaConf's oc.create would make a node with a target of this
        raise ValueError(
            f"{source} holds {config[:80]!r}, but what lipcert writes is resolved; say trust=true if you trust the file"
        )
    for item in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
        check_trusted(item, trust, source)


def is_ours(name: str) -> bool:
    """Whether a target is one of our parts, or a module or optimizer of torch. The name alone can't tell:
    lipcert.models.l2nnn.nn.functional leads elsewhere, and lipcert.reporting.files.write_atomic writes anywhere."""
    import torch

    if not name.startswith((*OURS, *TORCHS)):
        return False
    try:
        target = locate(name, "")
    except ValueError:  # not even importable: whoever builds it says so
        return True
    home = f"{getattr(target, '__module__', None)}."
    ours = callable(target) and home.startswith(OURS)
    torchs = inspect.isclass(target) and issubclass(target, torch.nn.Module | torch.optim.Optimizer)
    return ours or (torchs and home.startswith(TORCHS))


def build(node: Any, **extra: Any) -> Any:
    """Instantiates a checked node. ValueErrors of constructors reach the user as they are, other errors that bad values
    cause as ValueErrors naming the target; defects are raised as what they are."""
    from hydra.errors import InstantiationException

    try:
        return instantiate(node, **extra, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if cause is None:
            raise
        if isinstance(cause, ValueError):
            raise cause from None
        if isinstance(cause, MENDABLE):
            raise ValueError(f"{node['_target_']} can't be built: {one_line(cause)}") from error
        raise cause from None


def locate(name: str, path: str) -> Any:
    """What a `_target_` names; ValueError if it can't be imported."""
    logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # it logs, in three lines, what it then raises
    try:
        return get_object(name)
    except Exception as error:
        reason = error.__cause__ or error
        raise ValueError(f"`{path}._target_`: {name} can't be imported ({one_line(reason)})") from None
