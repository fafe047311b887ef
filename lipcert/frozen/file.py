"""A network as two files: `network.json` says what its operations are, `network.safetensors` holds their constants.

A reader trusts neither: both may come from a stranger. Nothing is unpickled, and nothing that a file names is run.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import safetensors.torch
import torch
from torch import Tensor

from lipcert.contracts import Norm
from lipcert.frozen.fields import due, plain, read, required, short, type_name, written
from lipcert.frozen.network import MOST_ENTRIES, Network
from lipcert.frozen.operation import Operation, Shape, expect, tensor_fields
from lipcert.frozen.ops import OPERATIONS

VERSION = 1
TEXT, TENSORS = "network.json", "network.safetensors"
MOST_TEXT, MOST_HEADER, MOST_BYTES = 1 << 24, 1 << 24, 1 << 32  # of the JSON, of the tensors' header and of all of them
MOST_OPERATIONS, MOST_AXES = 100_000, 16
STORED = {  # by whether they are floating: the types that constants are stored in, the smallest first
    True: (torch.float16, torch.bfloat16, torch.float32, torch.float64),
    False: (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64),
}


class Described(NamedTuple):
    """An operation whose constants are not read yet: its class, its plain fields, the names of its constants."""

    operation: type[Operation]
    values: dict[str, Any]
    constants: list[str]


def save(network: Network, folder: Path) -> None:
    """Writes a network into `folder`, which is made where it is missing.

    Each constant is stored in the smallest type that holds it to the last bit. Each file is replaced in one step, the
    JSON last; it has the other's hash, so that a pair of which a kill has replaced only one is refused by a reader.

    Raises ValueError where the network holds what no file may: a number that is none, or too large a JSON.
    """
    packed = safetensors.torch.save(
        {
            f"{number}.{name}": smallest(constant, due(type(operation), name))
            for number, operation in enumerate(network.operations, 1)
            for name, constant in operation.constants().items()
        }
    )
    described = {
        "lipcert": VERSION,
        "norm": network.norm.value,
        "shape": list(network.shape),
        "sha256": hashlib.sha256(packed).hexdigest(),
        "operations": [_described(operation) for operation in network.operations],
    }
    text = (json.dumps(described, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    expect(len(text) <= MOST_TEXT and len(packed) <= MOST_BYTES, "the network is too large for a file")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / TENSORS, packed)
    _replace(folder / TEXT, text)


def load(folder: Path) -> Network:
    """The network in `folder`, its floating-point constants in float64.

    Raises ValueError, in one line that names the file and the way out, where a file is missing, is no regular file, is
    too large, or does not hold exactly what `save` writes: known operations, fields of their types, shapes that fit
    together, finite constants, and no more entries in all values together than one value may have.
    """
    text, tensors = Path(folder) / TEXT, Path(folder) / TENSORS
    path = text
    try:
        shape, norm, sha256, described = _read_text(_bytes(text, MOST_TEXT))
        path = tensors
        operations = tuple(_bound(described, _read_tensors(_bytes(tensors, MOST_BYTES), sha256)))
        path = text
        return Network(shape, operations, norm)
    except RecursionError:
        why = "it is nested too deeply"
    except MemoryError:
        why = "it does not fit into memory"
    except OSError as error:
        why = "it is a link" if error.errno == errno.ELOOP else (error.strerror or str(error)).lower()
    except ValueError as error:
        why = str(error)
    why = why if len(why) <= 300 else why[:297] + "..."
    line = f"{path} is no network of lipcert ({why}): freeze it again, or train the run anew"
    raise ValueError("".join(letter if letter.isprintable() else " " for letter in line))


def smallest(constant: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy of a constant, which is due in `dtype`, in the smallest type that holds each entry to the last bit."""
    exact = constant.detach().cpu().to(dtype)
    for kind in _types(dtype):
        held = exact.to(kind, copy=True).contiguous()
        if torch.equal(_bits(held.to(dtype)), _bits(exact)):
            return held
    raise AssertionError(f"{dtype} holds itself")


def _bits(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.int64) if x.is_floating_point() else x


def _types(dtype: torch.dtype) -> list[torch.dtype]:
    """The types in which a constant that is due in `dtype` may be stored: each of their values has its place there."""
    return [kind for kind in STORED[dtype.is_floating_point] if torch.promote_types(kind, dtype) == dtype]


def _described(operation: Operation) -> dict[str, Any]:
    kind = type(operation)
    values = {f.name: written(getattr(operation, f.name), str(f.type)) for f in plain(kind)}
    return {"kind": kind.kind, **values, "constants": {n: type_name(due(kind, n)) for n in operation.constants()}}


def _read_text(content: bytes) -> tuple[Shape, Norm, str, list[Described]]:
    text = json.loads(content.decode(), object_pairs_hook=_once, parse_constant=_no_number, parse_int=_small)
    _keys(text, ["lipcert", "norm", "shape", "sha256", "operations"], "it")
    version, norm, sha256, entries = text["lipcert"], text["norm"], text["sha256"], text["operations"]
    expect(type(version) is int and version == VERSION, f"version {short(version)} of the format is not {VERSION}")
    expect(norm in list(Norm), f"there is no norm {short(norm)}")
    expect(type(sha256) is str, f"`sha256` is {short(sha256)}, where str is due")
    expect(type(entries) is list, f"`operations` is {short(entries)}, where a list is due")
    expect(len(entries) <= MOST_OPERATIONS, f"{len(entries)} operations are more than {MOST_OPERATIONS}")
    shape = _shape(text["shape"], "the image")
    described = [_read_operation(entry, f"operation {number}") for number, entry in enumerate(entries, 1)]
    total = math.prod(shape) + sum(math.prod(values["shape"]) for _, values, _ in described)
    expect(total <= MOST_ENTRIES, f"its values have more than {MOST_ENTRIES} entries")
    return shape, Norm(norm), sha256, described


def _read_operation(entry: Any, where: str) -> Described:
    expect(type(entry) is dict and type(entry.get("kind")) is str, f"{where} has no kind")
    expect(entry["kind"] in OPERATIONS, f"{where}: there is no operation {short(entry['kind'])}")
    operation = OPERATIONS[entry["kind"]]
    where = f"{where}, {operation.kind}"
    _keys(entry, ["kind", *(f.name for f in plain(operation)), "constants"], where)
    values = {f.name: read(entry[f.name], str(f.type), f"{where}: `{f.name}`") for f in plain(operation)}
    _shape(entry["shape"], where)
    constants = entry["constants"]
    expect(type(constants) is dict, f"{where}: `constants` is {short(constants)}, where an object is due")
    named = [name for name in tensor_fields(operation) if name in constants or name in required(operation)]
    _keys(constants, named, f"{where}: `constants`")
    for name in named:
        dtype = type_name(due(operation, name))
        expect(constants[name] == dtype, f"{where}: `{name}` is {short(constants[name])}, where {dtype!r} is due")
    return Described(operation, values, named)


def _shape(value: Any, where: str) -> Shape:
    shape: Shape = read(value, "tuple[int, ...]", f"{where}: `shape`")
    expect(len(shape) <= MOST_AXES, f"{where}: `shape` has more than {MOST_AXES} axes")
    expect(all(side > 0 for side in shape), f"{where}: `shape` has a side that is not positive")
    return shape


def _keys(value: Any, keys: list[str], where: str) -> None:
    expect(type(value) is dict, f"{where} is {short(value)}, where an object is due")
    for key in keys:
        expect(key in value, f"{where} has no `{key}`")
    for key in value:
        expect(key in keys, f"{where} has {short(key)}, which is not known")


def _once(items: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(items)
    expect(len(found) == len(items), "a key appears twice")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _small(digits: str) -> int:
    expect(len(digits) <= 20, f"an integer of {len(digits)} digits")
    return int(digits)


def _read_tensors(packed: bytes, sha256: str) -> dict[str, Tensor]:
    header = int.from_bytes(packed[:8], "little")
    expect(len(packed) >= 8 and header <= len(packed) - 8, "it is cut short")
    expect(header <= MOST_HEADER, f"its header has more than {MOST_HEADER} bytes")
    expect(hashlib.sha256(packed).hexdigest() == sha256, f"it is not the one that {TEXT} was written with")
    try:
        return safetensors.torch.load(packed)
    except Exception as error:  # whatever the library makes of bytes from a stranger
        raise ValueError(f"it can't be read: {error}") from None


def _bound(described: list[Described], tensors: dict[str, Tensor]) -> Iterator[Operation]:
    """The operations with their constants; ValueError where one is missing or superfluous, or of a wrong type."""
    for number, (operation, values, constants) in enumerate(described, 1):
        bound: dict[str, Any] = dict.fromkeys(tensor_fields(operation))
        for name in constants:
            where = f"operation {number}, {operation.kind}: `{name}`"
            expect(f"{number}.{name}" in tensors, f"{where} is missing")
            stored, dtype = tensors.pop(f"{number}.{name}"), due(operation, name)
            expect(stored.dtype in _types(dtype), f"{where} is stored as {type_name(stored.dtype)}")
            expect(stored.dim() <= MOST_AXES, f"{where} has more than {MOST_AXES} axes")
            bound[name] = stored.to(dtype)
        yield operation(**values, **bound)
    for name in tensors:
        raise ValueError(f"{short(name)} belongs to no operation")


def _bytes(path: Path, most: int) -> bytes:
    """The bytes of a regular file, no more than `most`. No link is followed, and nothing waits for a pipe."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(handle)
        expect(stat.S_ISREG(status.st_mode), "it is no regular file")
        expect(status.st_size <= most, f"it has more than {most} bytes")
        with open(handle, "rb", closefd=False) as file:
            return file.read(status.st_size)
    finally:
        os.close(handle)


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
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
