"""A network as two files: `network.json` lists its operations, `network.safetensors` holds their constants.

A reader trusts neither, since somebody else may have made them: nothing is unpickled, nothing that a file names is
executed, and everything is bounded before memory is allocated for it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import safetensors.torch
import torch
from torch import Tensor

from lipcert.contracts import Norm
from lipcert.files import read_regular, write_atomic
from lipcert.frozen.fields import dtype_of, plain, read, required, short, type_name, written
from lipcert.frozen.network import MOST_ENTRIES, Network
from lipcert.frozen.operation import Operation, Shape, expect, tensor_fields
from lipcert.frozen.ops import OPERATIONS

VERSION = 1
TEXT, TENSORS = "network.json", "network.safetensors"
MOST_TEXT, MOST_HEADER, MOST_BYTES = 1 << 22, 1 << 22, 1 << 32  # of the JSON; of the tensors' header; of all tensors
MOST_OPERATIONS, MOST_AXES = 10_000, 16
STORED = {  # the types that constants are stored in, the smallest first, by whether they are floating-point types
    True: (torch.float16, torch.bfloat16, torch.float32, torch.float64),
    False: (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64),
}


class Described(NamedTuple):
    """An operation whose constants are not read yet: its class, its plain fields, the names of its constants."""

    operation: type[Operation]
    values: dict[str, Any]
    constants: list[str]


def save(network: Network, folder: Path) -> None:
    """Writes a network into `folder`, which is created where it is missing.

    Each constant is stored in the smallest type that holds all of its bits. Each file is replaced in one step, the
    JSON last; it holds the hash of the other file, so that a reader refuses a pair of which only one was replaced.

    Raises ValueError where the network cannot be stored: a field is not a number, or the network is too large.
    """
    packed = safetensors.torch.save(
        {
            f"{number}.{name}": smallest(constant, dtype_of(type(operation), name))
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
    expect(len(text) <= MOST_TEXT and len(packed) <= MOST_BYTES, "the network is too large to be stored")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / TENSORS, packed)
    write_atomic(folder / TEXT, text)


def load(folder: Path) -> Network:
    """The network in `folder`, with its floating-point constants in float64.

    Raises ValueError, in one line that names the file and what is wrong with it, where a file is missing, is not a
    regular file, is too large, or does not hold exactly what `save` writes: known operations, fields of the right
    types, shapes that fit together, finite constants, and not too many entries in all values together.
    """
    path = Path(folder) / TEXT
    try:
        shape, norm, sha256, described = _read_text(read_regular(path, MOST_TEXT))
        path = Path(folder) / TENSORS
        operations = tuple(_bound(described, _read_tensors(read_regular(path, MOST_BYTES), sha256)))
        path = Path(folder) / TEXT
        return with_checked_claims(Network(shape, operations, norm))
    except RecursionError:
        why = "it is nested too deeply"
    except OSError as error:
        why = (error.strerror or str(error)).lower()
    except MemoryError:
        why = "it does not fit into memory"
    except (ValueError, RuntimeError) as error:  # the latter from torch, where memory is short
        why = str(error).removeprefix(f"{path} ")
    why = why if len(why) <= 300 else why[:297] + "..."
    line = f"{path} cannot be read as a network ({why}): freeze the model again, or train it again"
    raise ValueError("".join(letter if letter.isprintable() else " " for letter in line))


def with_checked_claims(network: Network) -> Network:
    """The network; ValueError where an operation has claims that are not one for each of its groups or blocks."""
    for number, operation in enumerate(network.operations, 1):
        if operation.claim and not operation.takes_claims(len(operation.claim)):
            raise ValueError(
                f"operation {number} has {len(operation.claim)} claims, and not one for each of its groups"
            )
    return network


def smallest(constant: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy of a constant, which has the type `dtype` in a network, in the smallest type that holds all its bits."""
    exact = constant.detach().cpu().to(dtype)
    for kind in _types(dtype):
        held = exact.to(kind, copy=True).contiguous()
        if torch.equal(_bits(held.to(dtype)), _bits(exact)):
            return held
    raise AssertionError(f"{dtype} holds itself")


def _bits(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.int64) if x.is_floating_point() else x


def _types(dtype: torch.dtype) -> list[torch.dtype]:
    """The types in which a constant of type `dtype` may be stored: those whose every value `dtype` has too."""
    return [kind for kind in STORED[dtype.is_floating_point] if torch.promote_types(kind, dtype) == dtype]


def _described(operation: Operation) -> dict[str, Any]:
    kind = type(operation)
    values = {f.name: written(getattr(operation, f.name), str(f.type)) for f in plain(kind)}
    return {"kind": kind.kind, **values, "constants": {n: type_name(dtype_of(kind, n)) for n in operation.constants()}}


def _read_text(content: bytes) -> tuple[Shape, Norm, str, list[Described]]:
    text = json.loads(content.decode(), object_pairs_hook=_once, parse_constant=_no_number, parse_int=_small)
    _keys(text, ["lipcert", "norm", "shape", "sha256", "operations"], "it")
    version, norm, sha256, entries = text["lipcert"], text["norm"], text["sha256"], text["operations"]
    expect(type(version) is int and version == VERSION, f"its version is {short(version)}, not {VERSION}")
    expect(norm in list(Norm), f"{short(norm)} is not a norm")
    expect(type(sha256) is str, f"`sha256` is {short(sha256)}, not a string")
    expect(type(entries) is list, f"`operations` is {short(entries)}, not a list")
    expect(len(entries) <= MOST_OPERATIONS, f"it has {len(entries)} operations, and at most {MOST_OPERATIONS} are read")
    shape = _shape(text["shape"], "the image")
    described = [_read_operation(entry, f"operation {number}") for number, entry in enumerate(entries, 1)]
    total = math.prod(shape) + sum(math.prod(values["shape"]) for _, values, _ in described)
    expect(total <= MOST_ENTRIES, f"its values have more than {MOST_ENTRIES} entries together")
    return shape, Norm(norm), sha256, described


def _read_operation(entry: Any, where: str) -> Described:
    expect(type(entry) is dict and type(entry.get("kind")) is str, f"{where} has no kind")
    expect(entry["kind"] in OPERATIONS, f"{where}: {short(entry['kind'])} is not a kind of operation")
    operation = OPERATIONS[entry["kind"]]
    where = f"{where}, {operation.kind}"
    _keys(entry, ["kind", *(f.name for f in plain(operation)), "constants"], where)
    values = {f.name: read(entry[f.name], str(f.type), f"{where}: `{f.name}`") for f in plain(operation)}
    _shape(entry["shape"], where)
    constants = entry["constants"]
    expect(type(constants) is dict, f"{where}: `constants` is {short(constants)}, not an object")
    named = [name for name in tensor_fields(operation) if name in constants or name in required(operation)]
    _keys(constants, named, f"{where}: `constants`")
    for name in named:
        dtype = type_name(dtype_of(operation, name))
        expect(constants[name] == dtype, f"{where}: `{name}` is {short(constants[name])}, not {dtype!r}")
    return Described(operation, values, named)


def _shape(value: Any, where: str) -> Shape:
    shape: Shape = read(value, "tuple[int, ...]", f"{where}: `shape`")
    expect(len(shape) <= MOST_AXES, f"{where}: `shape` has more than {MOST_AXES} axes")
    expect(all(side > 0 for side in shape), f"{where}: `shape` has a side that is not positive")
    return shape


def _keys(value: Any, keys: list[str], where: str) -> None:
    expect(type(value) is dict, f"{where} is {short(value)}, not an object")
    for key in keys:
        expect(key in value, f"{where} has no `{key}`")
    for key in value:
        expect(key in keys, f"{where} has an unknown key, {short(key)}")


def _once(items: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(items)
    expect(len(found) == len(items), "a key appears twice")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _small(digits: str) -> int:
    expect(len(digits) <= 20, f"it has an integer of {len(digits)} digits")
    return int(digits)


def _read_tensors(packed: bytes, sha256: str) -> dict[str, Tensor]:
    header = int.from_bytes(packed[:8], "little")
    expect(len(packed) >= 8 and header <= len(packed) - 8, "it is cut short")
    expect(header <= MOST_HEADER, f"its header has more than {MOST_HEADER} bytes")
    expect(hashlib.sha256(packed).hexdigest() == sha256, f"its hash is not the one in {TEXT}")
    try:
        return safetensors.torch.load(packed)
    except Exception as error:  # whatever the library raises on a file that somebody else made
        raise ValueError(f"safetensors cannot read it: {error}") from None


def _bound(described: list[Described], tensors: dict[str, Tensor]) -> Iterator[Operation]:
    """The operations with their constants; ValueError where one is missing, superfluous, or of a wrong type."""
    total = 0
    for number, (operation, values, constants) in enumerate(described, 1):
        bound: dict[str, Any] = dict.fromkeys(tensor_fields(operation))
        for name in constants:
            where = f"operation {number}, {operation.kind}: `{name}`"
            expect(f"{number}.{name}" in tensors, f"{where} is missing")
            stored, dtype = tensors.pop(f"{number}.{name}"), dtype_of(operation, name)
            expect(stored.dtype in _types(dtype), f"{where} is stored as {type_name(stored.dtype)}")
            expect(stored.dim() <= MOST_AXES, f"{where} has more than {MOST_AXES} axes")
            total += stored.numel() * dtype.itemsize
            expect(total <= MOST_BYTES, f"its constants take more than {MOST_BYTES} bytes of memory")
            bound[name] = stored.to(dtype)
        yield operation(**values, **bound)
    for name in tensors:
        raise ValueError(f"{short(name)} belongs to no operation")
