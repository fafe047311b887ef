"""What the fields of an operation may hold in a file, derived from its dataclass: an operation is described only once.

Fields that hold tensors are constants: the JSON has the type of each, and the other file its entries. All other fields
are written as they are, except infinities, which JSON has no numbers for: they are the strings "inf" and "-inf".
"""

from __future__ import annotations

import math
from dataclasses import Field, fields
from typing import Any

import torch

from lipcert.frozen.operation import Operation, expect, tensor_fields
from lipcert.frozen.ops import OPERATIONS

MOST_LETTERS, MOST_NUMBER = 1000, 1 << 31  # of a string; no integer is as large
INFINITE = {"inf": math.inf, "-inf": -math.inf}
TYPES: dict[str, type] = {"int": int, "bool": bool, "float": float, "str": str}
SCHEMAS: dict[str, dict[str, Any]] = {
    "int": {"type": "integer", "minimum": 1 - MOST_NUMBER, "maximum": MOST_NUMBER - 1},
    "bool": {"type": "boolean"},
    "float": {"anyOf": [{"type": "number"}, {"enum": list(INFINITE)}]},
    "str": {"type": "string", "maxLength": MOST_LETTERS},
}


def plain(operation: type[Operation]) -> list[Field[Any]]:
    """The fields of a kind of operation that are not constants."""
    return [f for f in fields(operation) if f.name not in tensor_fields(operation)]


def required(operation: type[Operation]) -> list[str]:
    """The names of the constants that every operation of this kind has."""
    return [f.name for f in fields(operation) if str(f.type) == "Tensor"]


def dtype_of(operation: type[Operation], name: str) -> torch.dtype:
    """The type that a constant has in a network: float64, or the integer type that the operation states."""
    return operation.integers.get(name, torch.float64)


def type_name(dtype: torch.dtype) -> str:
    """The name of a type without its module: `float64` for torch.float64."""
    return str(dtype).removeprefix("torch.")


def schema() -> dict[str, dict[str, Any]]:
    """For each kind of operation, the JSON schema of its entries in the list `operations` of a file."""
    return {kind: _entry(kind, operation) for kind, operation in OPERATIONS.items()}


def _entry(kind: str, operation: type[Operation]) -> dict[str, Any]:
    constants = {name: {"const": type_name(dtype_of(operation, name))} for name in tensor_fields(operation)}
    properties = {
        "kind": {"const": kind},
        **{f.name: _schema(str(f.type)) for f in plain(operation)},
        "constants": _object(constants, required(operation)),
    }
    return _object(properties, list(properties))


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _schema(annotation: str) -> dict[str, Any]:
    item = _item(annotation)
    return SCHEMAS[annotation] if item is None else {"type": "array", "items": SCHEMAS[item]}


def _item(annotation: str) -> str | None:
    """The type of the entries of a tuple: `int` for "tuple[int, ...]"; None for any other type."""
    return annotation[len("tuple[") : -len(", ...]")] if annotation.startswith("tuple[") else None


def written(value: Any, annotation: str) -> Any:
    """The value of a field as JSON holds it; ValueError where JSON cannot hold it."""
    item = _item(annotation)
    if item is not None:
        return [written(entry, item) for entry in value]
    if annotation == "float":
        expect(not math.isnan(value), "a number that is not a number (NaN) cannot be stored")
        return float(value) if math.isfinite(value) else str(float(value))
    if annotation == "str":
        return "".join(letter for letter in value if letter.isprintable())[:MOST_LETTERS]
    return TYPES[annotation](value)


def read(value: Any, annotation: str, where: str) -> Any:
    """The value of a field from what JSON holds; ValueError, which names `where`, if it has another type."""
    item = _item(annotation)
    if item is not None:
        expect(type(value) is list, f"{where} is {short(value)}, not a list")
        return tuple([read(entry, item, where) for entry in value])
    if annotation == "float" and type(value) is str and value in INFINITE:
        return INFINITE[value]
    fits = type(value) is TYPES[annotation]
    if fits and annotation == "int":
        fits = abs(value) < MOST_NUMBER
    elif fits and annotation == "float":
        fits = math.isfinite(value)
    elif fits and annotation == "str":
        fits = len(value) <= MOST_LETTERS and value.isprintable()
    if not fits:
        raise ValueError(f"{where} is {short(value)}, not a valid {annotation}")
    return value


def short(value: Any) -> str:
    """A value from a file, cut to the length that an error message may have."""
    if isinstance(value, list | dict):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int) and abs(value) >= MOST_NUMBER:
        return "a huge number"
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
