"""Where configuration stops being Hydra's: plain values, checked against the signatures they are meant for, then built.

A node with a `_target_` names a class or a function; its other keys are the keywords of that call. What a file of
somebody else may name is a closed list (see `parts`).
"""

from __future__ import annotations

import difflib
import enum
import functools
import inspect
import os
import pkgutil
import re
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import yaml

from lipcert.errors import CAUSED_BY_VALUES, one_line
from lipcert.parts import is_optimizer, parts

RESERVED = ("_target_", "_partial_")
SUPPLIED = {"model": ("input_shape", "num_classes"), "loss": ("num_classes",)}  # by the data set
PLACES: dict[str, str | tuple[str, ...]] = {  # of the parts that a run's configuration names
    "dataset": "lipcert.datasets.",
    "model": "lipcert.models.",
    "loss": "lipcert.losses.",
    "optimizer": ("lipcert.optimizers.", "torch.optim."),
    "schedule": "lipcert.schedules.",
    "certificate": "lipcert.certificates.",
    "attack": "lipcert.attacks.",
    "trainer": (),
    "monitor": (),
    "logger": "lipcert.runs.tensorboard.",
    "name": (),
    "tags": (),
    "chosen": (),
    "seed": (),
    "eps": (),
}
SERVICES = "lipcert.training.services."  # loggers that tell a server
ANYWHERE = ("lipcert.attacks.", "lipcert.datasets.augmentation.", "lipcert.schedules.")  # parts of parts
MOST_EVENTS, MOST_DEPTH = 100_000, 50  # of a configuration as YAML
LARGEST = 2**63 - 1  # whole number in a configuration


class UnknownKey(ValueError):
    """A key that nothing takes; `key` is its dotted name."""

    def __init__(self, message: str, key: str = "") -> None:
        super().__init__(message)
        self.key = key


def plain(config: Any) -> dict[str, Any]:
    """The resolved configuration of OmegaConf as plain containers; ValueError naming what can't be resolved."""
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    try:
        content = typing.cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    except MissingMandatoryValue as error:
        raise ValueError(f"`{error.full_key}` must be given: {error.full_key}=...") from None
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "?"
        raise ValueError(f"`{key}` has no value: {str(error).splitlines()[0]}") from None
    check_plain(content, "the configuration")
    return content


def read_yaml(text: bytes, source: str) -> Any:
    """What a YAML text holds, which somebody else may have written: JSON's types with keys of text, and nothing else.

    ValueError, in one line that begins with `source`, for other types, tags, aliases (a few of which make a text of
    any size), a key that occurs twice, and for what is too long or too deep.
    """
    try:
        depth = 0
        for number, event in enumerate(yaml.parse(text, Loader=_PlainLoader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            tagged = getattr(event, "tag", None) is not None
            if tagged or isinstance(event, yaml.AliasEvent):
                raise ValueError(f"{source} has a tag or an alias of YAML: only plain values may stand there")
            if depth > MOST_DEPTH or number > MOST_EVENTS:
                raise ValueError(f"{source} is nested too deeply or too long for a configuration")
        content = yaml.load(text, Loader=_PlainLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise ValueError(f"{source} is not YAML: {one_line(error)}") from None
    except ValueError as error:  # of a number or a date that is none
        raise ValueError(str(error) if str(error).startswith(source) else f"{source}: {one_line(error)}") from None
    check_plain(content, source)
    return content


class _PlainLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads numbers as JSON and YAML 1.2 do, and refuses a key that occurs twice."""

    yaml_implicit_resolvers: ClassVar[dict] = {}

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} occurs twice")
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


_EXPONENT = r"([eE][-+][0-9]+)?"
for _kind, _form in {  # a part of YAML 1.1, which is what the dumper puts into quotes where it is meant as text
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(0|[1-9][0-9]*)",
    "float": rf"[-+]?[0-9]+\.[0-9]*{_EXPONENT}|\.[0-9]+{_EXPONENT}|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}.items():
    _PlainLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_form})$"), None)


def check_plain(value: Any, source: str, path: str = "") -> None:
    """ValueError where a configuration holds anything but JSON's types, with keys of text and numbers of 64 bits."""
    where = f"{source}: `{path}`" if path else source
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{where} has the key {key!r}: keys are text")
            check_plain(item, source, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            check_plain(item, source, f"{path}[{i}]")
    elif not (value is None or isinstance(value, bool | int | float | str)):
        raise ValueError(f"{where} is {one_line(ValueError(repr(value)), 60)}: only plain values may stand there")
    elif isinstance(value, int) and abs(value) > LARGEST:
        raise ValueError(f"{where} has more than 64 bits: {one_line(ValueError(hex(value)), 40)}")


def check(node: Any, path: str = "") -> None:
    """ValueError where a `_target_` would not take what the configuration gives it: an unknown key or a wrong type."""
    if isinstance(node, list):
        for i, item in enumerate(node):
            check(item, f"{path}[{i}]")
    if not isinstance(node, dict):
        return
    if "_target_" in node:
        for key in node:
            if key.startswith("_") and key.endswith("_") and key not in RESERVED:
                raise ValueError(f"`{path}.{key}` is not a key of a node: give its arguments by their names")
        values = {key: value for key, value in node.items() if key not in RESERVED}
        target = locate(node["_target_"], path)
        check_call(target, values, path, SUPPLIED.get(path, ()), unfinished=bool(node.get("_partial_")))
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

    target      a class or a function
    path        the dotted key of the node that the values are from
    supplied    keywords that it is given besides
    unfinished  whether it is given further ones later
    called      what messages call the target; its name by default
    """
    called = called or target.__name__
    call = target.__init__ if inspect.isclass(target) else target
    parameters = {name: p for name, p in inspect.signature(call).parameters.items() if name != "self"}
    try:
        hints = typing.get_type_hints(call)
    except (NameError, TypeError):  # annotations that only a type checker can resolve
        hints = {}
    any_other = next((name for name, p in parameters.items() if p.kind is p.VAR_KEYWORD), None)
    for key, value in values.items():
        full = f"{path}.{key}" if path else key
        if key not in parameters and any_other is None:
            raise UnknownKey(f"`{full}` is not a key of {called}{nearest(key, list(parameters))}", full)
        hint = hints.get(key if key in parameters else str(any_other), Any)
        if not fits(value, hint):
            raise ValueError(f"`{full}` must be {_name(hint)}, got {value!r}")
    for name, p in parameters.items():
        required = p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        if required and not unfinished and name not in values and name not in supplied:
            raise ValueError(f"`{f'{path}.{name}' if path else name}` must be given: {called} needs it")


def fits(value: Any, hint: Any) -> bool:
    """Whether a configured value is of the annotated type; annotations that no YAML value could meet always fit.

    No library checks this: a node stands for the object that will be built of it, a list for any sequence, and a whole
    number for a float, but neither a bool for a number nor a text for either.
    """
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, argument) for argument in [a for a in arguments if _is_plain(a)] or arguments)
    if origin is typing.Literal:
        return value in arguments
    if origin in (float, int):
        return isinstance(value, (int, float) if origin is float else int) and not isinstance(value, bool)
    if origin in (bool, str, types.NoneType):
        return isinstance(value, origin)
    if origin in (dict, Mapping):
        return isinstance(value, dict)
    if origin in (list, tuple, Sequence):
        if not isinstance(value, list):
            return False
        if origin is tuple and arguments and arguments[-1] is not ...:
            return len(value) == len(arguments) and all(map(fits, value, arguments))
        return not arguments or all(fits(item, arguments[0]) for item in value)
    return isinstance(value, dict) and "_target_" in value if _is_part(hint) else True


def _is_plain(hint: Any) -> bool:
    """Whether a YAML value can be of this type, or be built to be."""
    plain_types = (bool, int, float, str, types.NoneType, dict, list, tuple, Mapping, Sequence, typing.Literal)
    return (typing.get_origin(hint) or hint) in plain_types or _is_part(hint)


def _is_part(hint: Any) -> bool:
    """Whether it is built from a `_target_` of its own: something callable, or an object of ours."""
    hint = typing.get_origin(hint) or hint
    ours = inspect.isclass(hint) and hint.__module__.startswith("lipcert.") and not issubclass(hint, enum.Enum)
    return hint is Callable or ours


def _name(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_name(a) for a in [a for a in arguments if _is_plain(a)] or arguments)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if _is_part(hint):
        return "a node with a `_target_`"
    if hint is types.NoneType:
        return "null"
    if origin in (list, Sequence):
        return f"a list of {_name(arguments[0])}"
    return hint.__name__ if inspect.isclass(hint) and not arguments else str(hint).replace("collections.abc.", "")


def check_trusted(config: Mapping[str, Any], trust: bool, source: str) -> None:
    """ValueError where a configuration that was read from a file names code that is not one of our parts, in its place.

    config  {key: node}, such as {"model": ...}
    trust   whether it may name other code nevertheless
    source  what messages begin with
    """
    for key, part in () if trust else config.items():
        for node in _nodes(part):
            target = node["_target_"]
            if not isinstance(target, str) or target not in parts():
                raise ValueError(
                    f"{source} names `_target_: {str(target)[:100]}`, which is no part of lipcert or torch.optim; say "
                    "trust=true if you trust the file"
                )
            if target.startswith(SERVICES):
                raise ValueError(
                    f"{source}: `{key}` sends numbers to a server ({target}); say trust=true if you trust the file"
                )
            if not target.startswith(PLACES[key] if node is part else ANYWHERE):
                raise ValueError(f"{source}: {target} has no place in `{key}`")
            if node.get("_partial_", False) is not is_optimizer(target):
                raise ValueError(f"{source}: `_partial_` belongs to optimizers alone, and to each of them: {target}")


def _nodes(config: Any) -> Iterator[dict[str, Any]]:
    """Every mapping of a configuration that has a `_target_`."""
    if isinstance(config, dict) and "_target_" in config:
        yield config
    inner = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    for item in inner:
        yield from _nodes(item)


def build(node: dict[str, Any], **supplied: Any) -> Any:
    """Calls what a checked node names by `_target_`, with its other keys and `supplied` as keywords.

    Nodes within it are built first. With `_partial_` the result is that call without being made: a function of what is
    still missing. ValueErrors of a constructor reach the user as they are, other errors that bad values cause as
    ValueErrors that name the target; defects are raised as what they are.
    """
    target = locate(node["_target_"])
    values = {key: _built(value) for key, value in node.items() if key not in RESERVED} | supplied
    if node.get("_partial_"):
        return functools.partial(target, **values)
    try:
        return target(**values)
    except ValueError:
        raise
    except CAUSED_BY_VALUES as error:
        raise ValueError(f"{node['_target_']} can't be built: {one_line(error)}") from error


def _built(value: Any) -> Any:
    if isinstance(value, dict):
        return build(value) if "_target_" in value else {key: _built(item) for key, item in value.items()}
    return [_built(item) for item in value] if isinstance(value, list) else value


def locate(name: Any, path: str = "") -> Any:
    """What a `_target_` names: something callable. ValueError if it can't be imported or is no such thing.

    The current directory is searched only for a name that is not one of our parts, after all else.
    """
    where = f"`{path}._target_`: " if path else ""
    try:
        if not isinstance(name, str) or "." not in name:
            raise ValueError("it is not of the form package.module.Name")
        if name not in parts() and os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # and it stays: what is found there may import more of it later
        found = pkgutil.resolve_name(name)
        if not callable(found):
            raise ValueError("it is nothing that can be called")
    except Exception as error:  # whatever happens while somebody's module is imported
        raise ValueError(f"{where}{str(name)[:200]} can't be imported ({one_line(error)})") from None
    return found


def offline(node: dict[str, Any]) -> dict[str, Any]:
    """The node of a data set, which may then download nothing."""
    return {**node, "download": False} if str(node.get("_target_")).startswith("lipcert.datasets.") else node


def radii(eps: Sequence[float], key: str = "eps") -> list[float]:
    """The radii as floats. ValueError naming `key` for one that is negative, not finite or there twice."""
    values = [float(e) for e in eps]
    if any(not 0 <= e < float("inf") for e in values):
        raise ValueError(f"`{key}` must be radii from 0, got {list(eps)}")
    if len(set(values)) < len(values):
        raise ValueError(f"`{key}` names a radius twice: {list(eps)}")
    return values


def nearest(word: str, choices: Sequence[str], cutoff: float = 0.5) -> str:
    """ "; did you mean `...`?" with the choice that is most like the word; "" where none is."""
    found = difflib.get_close_matches(word[:100], choices, 1, cutoff)
    return f"; did you mean `{found[0]}`?" if found else ""
