"""What the fields of an operation may hold in a file, read off its dataclass: so an operation is described only once.

Fields that hold tensors are constants; the file has the type of each, and its entries elsewhere. All others are written
as they are, but for infinities, which JSON has no number for: they are the words "inf" and "-inf".
"""

from __future__ import annotations

import math
from dataclasses import Field, fields
from typing import Any

import torch

from lipcert.frozen.operation import Operation, expect, tensor_fields
from lipcert.frozen.ops import OPERATIONS

MOST_LETTERS, MOST_NUMBER = 1000, 1 << 31  # of a name; an integer lies below
INFINITE = {"inf": math.inf, "-inf": -math.inf}
TYPES: dict[str, type] = {"int": int, "bool": bool, "float": float, "str": str}
SCHEMAS: dict[str, dict[str, Any]] = {
    "int": {"type": "integer", "minimum": 1 - MOST_NUMBER, "maximum": MOST_NUMBER - 1},
    "bool": {"type": "boolean"},
    "float": {"anyOf": [{"type": "number"}, {"enum": list(INFINITE)}]},
    "str": {"type": "string", "maxLength": MOST_LETTERS},
}


def plain(operation: type[Operation]) -> list[Field[Any]]:
    """The fields that are written as they are: all but the constants."""
    return [f for f in fields(operation) if f.name not in tensor_fields(operation)]


def required(operation: type[Operation]) -> list[str]:
    """The constants that may not be left out."""
    return [f.name for f in fields(operation) if str(f.type) == "Tensor"]


def due(operation: type[Operation], name: str) -> torch.dtype:
    """The type that a constant has in a network: float64, or the integer type that the operation names."""
    return operation.integers.get(name, torch.float64)


def type_name(dtype: torch.dtype) -> str:
    """As in torch.float64: float64."""
    return str(dtype).removeprefix("torch.")


def schema() -> dict[str, dict[str, Any]]:
    """For each kind of operation the JSON schema of its entry in the list `operations` of a file."""
    return {kind: _entry(kind, operation) for kind, operation in OPERATIONS.items()}


def _entry(kind: str, operation: type[Operation]) -> dict[str, Any]:
    constants = {name: {"const": type_name(due(operation, name))} for name in tensor_fields(operation)}
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
    """`int` for "tuple[int, ...]"; None for what is no tuple."""
    return annotation[len("tuple[") : -len(", ...]")] if annotation.startswith("tuple[") else None


def written(value: Any, annotation: str) -> Any:
    """What JSON holds for the value of a field; ValueError where it has no place there."""
    item = _item(annotation)
    if item is not None:
        return [written(entry, item) for entry in value]
    if annotation == "float":
        expect(not math.isnan(value), "a number that is none can't be stored")
        return float(value) if math.isfinite(value) else str(float(value))
    if annotation == "str":
        return "".join(letter for letter in value if letter.isprintable())[:MOST_LETTERS]
    return TYPES[annotation](value)


def read(value: Any, annotation: str, where: str) -> Any:
    """The value of a field from what JSON held; ValueError, naming `where`, if that is not of the field's type."""
    item = _item(annotation)
    if item is not None:
        expect(type(value) is list, f"{where} is {short(value)}, where a list is due")
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
        raise ValueError(f"{where} is {short(value)}, where {annotation} is due")
    return value


def short(value: Any) -> str:
    """A value from a file as an error message may hold it."""
    if isinstance(value, list | dict):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int) and abs(value) >= MOST_NUMBER:
        return "a huge number"
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
