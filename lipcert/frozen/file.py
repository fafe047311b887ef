"""A network as two files: `network.json` says what its operations are, `network.safetensors` holds their constants.

A reader trusts nothing in them: both may come from a stranger. What a field of an operation may hold is read off the
dataclass of that operation, so that an operation is described once. No step of reading runs anything that a file names.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Iterator
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, NoReturn

import safetensors.torch
import torch
from torch import Tensor

from lipcert.contracts import Norm
from lipcert.frozen.network import MOST_ENTRIES, Network
from lipcert.frozen.operation import Operation, Shape, expect, tensor_fields
from lipcert.frozen.ops import OPERATIONS

VERSION = 1
TEXT, TENSORS = "network.json", "network.safetensors"
MOST_TEXT, MOST_HEADER, MOST_BYTES = 1 << 24, 1 << 24, 1 << 32  # of the JSON, of the header, of all constants
MOST_OPERATIONS, MOST_AXES, MOST_LETTERS, MOST_NUMBER = 100_000, 16, 1000, 1 << 31
STORED = {  # the types that constants are stored in, the smallest first
    True: (torch.float16, torch.bfloat16, torch.float32, torch.float64),
    False: (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64),
}
INFINITE = {"inf": math.inf, "-inf": -math.inf}
PLAIN: dict[str, dict[str, Any]] = {
    "int": {"type": "integer", "minimum": 1 - MOST_NUMBER, "maximum": MOST_NUMBER - 1},
    "bool": {"type": "boolean"},
    "float": {"anyOf": [{"type": "number"}, {"enum": list(INFINITE)}]},
    "str": {"type": "string", "maxLength": MOST_LETTERS},
}


def save(network: Network, folder: Path) -> None:
    """Writes a network into `folder`, which is made where it is missing.

    Each constant is stored in the smallest type that holds it exactly. Each file is replaced in one step, the JSON last;
    it holds the hash of the other, so that a reader refuses a pair that a kill has left half replaced.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{number}.{name}": smallest(constant, due(operation, name))
        for number, operation in enumerate(network.operations, 1)
        for name, constant in operation.constants().items()
    }
    packed = safetensors.torch.save(tensors)
    text = {
        "lipcert": VERSION,
        "norm": network.norm.value,
        "shape": list(network.shape),
        "sha256": hashlib.sha256(packed).hexdigest(),
        "operations": [_described(operation) for operation in network.operations],
    }
    _replace(folder / TENSORS, packed)
    _replace(folder / TEXT, (json.dumps(text, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def load(folder: Path) -> Network:
    """The network in `folder`, its floating-point constants in float64.

    Raises ValueError, in one line that names the file and the way out, where a file is missing, is no regular file, is
    too large, or does not hold exactly what `save` writes: known operations, fields of their types, shapes that fit
    together, finite constants, and as many entries in all values together as one value may have.
    """
    path = Path(folder) / TEXT
    try:
        text = _parsed(_bytes(path, MOST_TEXT))
        described, norm = _read_text(text), text["norm"]
        path = Path(folder) / TENSORS
        tensors = _read_tensors(_bytes(path, MOST_BYTES), text["sha256"])
        return Network(_shape(text["shape"]), tuple(_operations(described, tensors)), Norm(norm))
    except RecursionError:
        _refuse(path, "it is nested too deeply")
    except MemoryError:
        _refuse(path, "it does not fit into memory")
    except OSError as error:
        _refuse(path, (error.strerror or str(error)).lower())
    except ValueError as error:
        _refuse(path, str(error))


def schema() -> dict[str, dict[str, Any]]:
    """For each kind of operation the JSON schema of its entry in `operations`, as the dataclasses have it."""
    return {
        kind: {
            "type": "object",
            "properties": {
                "kind": {"const": kind},
                **{f.name: _schema_of(str(f.type)) for f in _written_fields(operation)},
                "constants": {
                    "type": "object",
                    "properties": {name: {"const": _name(due(operation, name))} for name in tensor_fields(operation)},
                    "required": _required(operation),
                    "additionalProperties": False,
                },
            },
            "required": ["kind", *(f.name for f in _written_fields(operation)), "constants"],
            "additionalProperties": False,
        }
        for kind, operation in OPERATIONS.items()
    }


def due(operation: Operation | type[Operation], name: str) -> torch.dtype:
    """The type that a constant has in a network that was read: float64, or the operation's own integer type."""
    return operation.integers.get(name, torch.float64)


def smallest(constant: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy of a constant, which is due in `dtype`, in the smallest type that holds each entry to the last bit."""
    exact = constant.detach().cpu().to(dtype)
    for kind in _stored(dtype):
        held = exact.to(kind, copy=True).contiguous()
        if torch.equal(_bits(held.to(dtype)), _bits(exact)):
            return held
    raise ValueError(f"a constant of type {_name(constant.dtype)} can't be stored")


def _bits(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.int64) if x.is_floating_point() else x


def _stored(dtype: torch.dtype) -> list[torch.dtype]:
    """The types in which a constant that is due in `dtype` may be stored: those that lose nothing on the way back."""
    return [kind for kind in STORED[dtype.is_floating_point] if torch.promote_types(kind, dtype) == dtype]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# ---- fields


def _written_fields(operation: type[Operation]) -> list[Field[Any]]:
    """The fields that are written as they are: all but the constants."""
    return [f for f in fields(operation) if f.name not in tensor_fields(operation)]


def _required(operation: type[Operation]) -> list[str]:
    """The constants that may not be left out."""
    return [f.name for f in fields(operation) if str(f.type) == "Tensor"]


def _item(annotation: str) -> str | None:
    """`int` for "tuple[int, ...]"; None for what is no tuple."""
    return annotation[len("tuple[") : -len(", ...]")] if annotation.startswith("tuple[") else None


def _schema_of(annotation: str) -> dict[str, Any]:
    item = _item(annotation)
    return PLAIN[annotation] if item is None else {"type": "array", "items": PLAIN[item]}


def _described(operation: Operation) -> dict[str, Any]:
    values = {f.name: _write(getattr(operation, f.name), str(f.type)) for f in _written_fields(type(operation))}
    constants = {name: _name(due(operation, name)) for name in operation.constants()}
    return {"kind": operation.kind, **values, "constants": constants}


def _write(value: Any, annotation: str) -> Any:
    item = _item(annotation)
    if item is not None:
        return [_write(entry, item) for entry in value]
    if annotation == "float":
        return float(value) if math.isfinite(value) else str(float(value))
    if annotation == "str":
        return "".join(letter for letter in value if letter.isprintable())[:MOST_LETTERS]
    return {"int": int, "bool": bool}[annotation](value)


def _read(value: Any, annotation: str, where: str) -> Any:
    """A value out of the JSON as its field is to hold it; ValueError where it is of another type."""
    item = _item(annotation)
    if item is not None:
        expect(type(value) is list, f"{where} is no list")
        return tuple(_read(entry, item, where) for entry in value)
    if annotation == "float" and type(value) is str and value in INFINITE:
        return INFINITE[value]
    kind = {"int": int, "bool": bool, "float": float, "str": str}[annotation]
    expect(type(value) is kind, f"{where} is {_short(value)}, where {annotation} is due")
    if kind is float:
        expect(math.isfinite(value), f"{where} is not finite")
    if kind is int:
        expect(abs(value) < MOST_NUMBER, f"{where} is absurdly large")
    if kind is str:
        expect(len(value) <= MOST_LETTERS and value.isprintable(), f"{where} is no name: {_short(value)}")
    return value


# ---- reading


def _read_text(text: Any) -> list[tuple[type[Operation], dict[str, Any], list[str]]]:
    """Each operation's class, its plain fields, and which constants it has; ValueError where anything else is there."""
    _expect_keys(text, ["lipcert", "norm", "shape", "sha256", "operations"], "it")
    version, entries = text["lipcert"], text["operations"]
    expect(type(version) is int and version == VERSION, f"version {_short(version)} of the format is not {VERSION}")
    expect(text["norm"] in list(Norm), f"there is no norm {_short(text['norm'])}")
    expect(type(text["sha256"]) is str, "`sha256` is no hash")
    expect(type(entries) is list and len(entries) <= MOST_OPERATIONS, f"a list of at most {MOST_OPERATIONS} operations")
    described = [_read_operation(entry, f"operation {number}") for number, entry in enumerate(entries, 1)]
    total = math.prod(_shape(text["shape"])) + sum(math.prod(values["shape"]) for _, values, _ in described)
    expect(total <= MOST_ENTRIES, f"its values have {total} entries, more than {MOST_ENTRIES}")
    return described


def _read_operation(entry: Any, where: str) -> tuple[type[Operation], dict[str, Any], list[str]]:
    expect(type(entry) is dict and type(entry.get("kind")) is str, f"{where} has no kind")
    expect(entry["kind"] in OPERATIONS, f"{where}: there is no operation {_short(entry['kind'])}")
    operation = OPERATIONS[entry["kind"]]
    written, constants = _written_fields(operation), entry.get("constants")
    _expect_keys(entry, ["kind", *(f.name for f in written), "constants"], where)
    expect(type(constants) is dict and set(constants) <= set(tensor_fields(operation)), f"{where}: unknown constants")
    for name in {*constants, *_required(operation)}:
        dtype = _name(due(operation, name))
        expect(constants.get(name) == dtype, f"{where}: `{name}` is {_short(constants.get(name))}, not {dtype}")
    values = {f.name: _read(entry[f.name], str(f.type), f"{where}: `{f.name}`") for f in written}
    values["shape"] = _shape(entry["shape"], where)
    return operation, values, list(constants)


def _shape(value: Any, where: str = "it") -> Shape:
    shape = _read(value, "tuple[int, ...]", f"{where}: `shape`")
    expect(len(shape) <= MOST_AXES and all(side > 0 for side in shape), f"{where}: `shape` {_short(value)} is none")
    return shape


def _operations(
    described: list[tuple[type[Operation], dict[str, Any], list[str]]], tensors: dict[str, Tensor]
) -> Iterator[Operation]:
    names = {f"{number}.{name}" for number, (_, _, constants) in enumerate(described, 1) for name in constants}
    for name in sorted(names ^ set(tensors)):
        raise ValueError(f"the constant {_short(name)} is {'missing' if name in names else 'superfluous'}")
    for number, (operation, values, constants) in enumerate(described, 1):
        bound: dict[str, Tensor | None] = dict.fromkeys(tensor_fields(operation))
        for name in constants:
            stored, dtype = tensors.pop(f"{number}.{name}"), due(operation, name)
            allowed = stored.dtype in _stored(dtype) and stored.dim() <= MOST_AXES
            expect(allowed, f"operation {number}: `{name}` is stored as {_name(stored.dtype)} in {stored.dim()} axes")
            bound[name] = stored.to(dtype)
        yield operation(**values, **bound)


def _read_tensors(packed: bytes, sha256: str) -> dict[str, Tensor]:
    expect(hashlib.sha256(packed).hexdigest() == sha256, f"it is not the file that {TEXT} was written with")
    header = int.from_bytes(packed[:8], "little")
    expect(len(packed) >= 8 and header <= min(MOST_HEADER, len(packed) - 8), "its header is cut short, or too large")
    try:
        return safetensors.torch.load(packed)
    except Exception as error:  # whatever the library makes of bytes from a stranger
        raise ValueError(f"it can't be read: {error}") from None


def _parsed(text: bytes) -> Any:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        expect(len(dict(items)) == len(items), "a key appears twice")
        return dict(items)

    def constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is no number")

    return json.loads(text.decode(), object_pairs_hook=pairs, parse_constant=constant)


def _expect_keys(value: Any, keys: list[str], where: str) -> None:
    expect(type(value) is dict, f"{where} is no object of JSON")
    odd = sorted(set(keys) ^ set(value))
    expect(not odd, f"{where} lacks, or should not have, {_short(', '.join(odd))}")


# ---- bytes


def _bytes(path: Path, most: int) -> bytes:
    """The bytes of a regular file, no more than `most`. A link is not followed, and nothing waits for a pipe."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(handle, "rb") as file:
        status = os.fstat(handle)
        expect(stat.S_ISREG(status.st_mode), "it is no regular file")
        expect(status.st_size <= most, f"it has more than {most} bytes")
        return file.read(most)


def _replace(path: Path, content: bytes) -> None:
    """Replaces a file in one step: no reader and no kill meets a part of it, and no link is written through."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)
    try:
        with open(partial, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _refuse(path: Path, why: str) -> NoReturn:
    line = " ".join(why.split())
    why = line if len(line) <= 300 else line[:297] + "..."
    raise ValueError(f"{path} is no network of lipcert ({why}): freeze it again, or train the run anew") from None
