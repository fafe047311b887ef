"""A network's files return the same network; whatever else lies in their place gives one line of an error, soon."""

import hashlib
import json
import math
import os
import random
import runpy
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from frozen_builder import Builder
from frozen_cases import KINDS, one_operation
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lipcert.frozen.fields import schema
from lipcert.frozen.file import MOST_OPERATIONS, TENSORS, TEXT, load, save, smallest
from lipcert.frozen.network import Network
from lipcert.frozen.operation import tensor_fields
from lipcert.frozen.ops import OPERATIONS


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def mixed() -> Network:
    """A network with every type of field and constant, for the tests to spoil."""
    b, plane = Builder(0, (2, 6, 6)), {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
    conv = {"weight": drawn(4, 2, 3, 3), "bias": drawn(4), "size": (6, 6), "groups": 1}
    b.add("convolution", 0, name="body.0", **conv, **plane)
    b.add("max_pool", 1, kernel=(2, 2), ceil_mode=False, **{**plane, "stride": (2, 2), "padding": (0, 0)})
    b.add("pointwise", 2, function="clamp", parameters=(-math.inf, 6.0))
    b.add("concatenate", 2, 3, axis=0)
    b.add("rearrange", 4, index=torch.arange(20) - 1)
    b.add("linear", 5, weight=drawn(3, 20), bias=drawn(3), claim=(1.0, math.inf, -0.0), name="head")
    return b.network()


def cases() -> list[Network]:
    """Each kind of operation, and the mixed network."""
    return [*(one_operation(kind, 3, wild=False) for kind in KINDS), mixed()]


def assert_same(a: Network, b: Network) -> None:
    assert (a.shape, a.norm, len(a.operations)) == (b.shape, b.norm, len(b.operations))
    for one, other in zip(a.operations, b.operations, strict=True):
        assert type(one) is type(other)
        for field in fields(one):
            x, y = getattr(one, field.name), getattr(other, field.name)
            if isinstance(x, Tensor):
                assert x.dtype == y.dtype and x.shape == y.shape
                assert x.numpy().tobytes() == y.numpy().tobytes()
            else:
                assert x == y and repr(x) == repr(y), field.name


# ---------------------------------------- writing, and reading what was written


def test_a_network_comes_back_bit_by_bit_and_fits_the_schema(tmp_path):
    assert set(schema()) == set(OPERATIONS) == set(KINDS)
    for network in cases():
        save(network, tmp_path / "new" / "folder")
        back = load(tmp_path / "new" / "folder")
        assert_same(network, back)
        images = torch.rand(3, *network.shape, dtype=torch.float64)
        assert network(images).numpy().tobytes() == back(images).numpy().tobytes()
        save(back, tmp_path)
        for name in (TEXT, TENSORS):
            assert (tmp_path / name).read_bytes() == (tmp_path / "new" / "folder" / name).read_bytes()
        for entry in json.loads((tmp_path / TEXT).read_text())["operations"]:
            one = schema()[entry["kind"]]
            assert list(entry) == one["required"] == list(one["properties"])
            constants = one["properties"]["constants"]["properties"]
            assert set(constants) == set(tensor_fields(OPERATIONS[entry["kind"]]))
            assert set(entry["constants"].items()) <= {(name, value["const"]) for name, value in constants.items()}
    assert schema()["recurrent"]["properties"]["constants"]["required"] == ["weight", "cos", "sin"]


@pytest.mark.parametrize(
    ("values", "dtype", "stored"),
    [
        ([0.5, -0.0, 65504.0, 2.0**-24], torch.float64, torch.float16),
        ([1.0, 2.0**100, -(2.0**-133)], torch.float64, torch.bfloat16),
        ([1 + 2.0**-20, 2.0**-149, -0.0], torch.float64, torch.float32),
        ([65536.0, 1 + 2.0**-10], torch.float64, torch.float32),
        ([0.1, 5e-324], torch.float64, torch.float64),
        ([], torch.float64, torch.float16),
        ([-1, 127], torch.int64, torch.int8),
        ([0, 255], torch.int64, torch.uint8),
        ([-1, 128], torch.int64, torch.int16),
        ([40000], torch.int64, torch.int32),
        ([1 << 31], torch.int64, torch.int64),
        ([3], torch.uint8, torch.uint8),
    ],
)
def test_a_constant_takes_the_smallest_type_that_holds_it(values, dtype, stored):
    constant = torch.tensor(values, dtype=dtype)
    held = smallest(constant, dtype)
    assert held.dtype == stored
    assert held.to(dtype).numpy().tobytes() == constant.numpy().tobytes()


def test_shared_and_strided_constants_are_stored_whole(tmp_path):
    weight, b = torch.randn(4, 4).double(), Builder(0, (4,))
    b.add("linear", 0, weight=weight, bias=None)
    b.add("linear", 1, weight=weight.T, bias=weight[0])
    b.add("affine", 2, scale=drawn(1).expand(4), shift=None)
    save(b.network(), tmp_path)
    images = torch.rand(2, 4, dtype=torch.float64)
    assert torch.allclose(load(tmp_path)(images), b.network()(images), rtol=1e-15)
    assert safetensors.torch.load_file(tmp_path / TENSORS)["1.weight"].dtype == torch.float32


def test_names_are_made_printable_and_nan_is_not_written(tmp_path):
    for claim in ((), (math.nan,)):
        b = Builder(0, (2,))
        b.add("add", 0, 0, minus=False, name="a\n\x1b[31mb" + "c" * 2000, claim=claim)
        if not claim:
            save(b.network(), tmp_path)
            continue
        with pytest.raises(ValueError, match="cannot be stored"):
            save(b.network(), tmp_path)
    assert load(tmp_path).operations[0].name == ("a[31mb" + "c" * 2000)[:1000]


def test_the_page_of_operations_is_up_to_date():
    script = Path(__file__).parents[1] / "scripts" / "write_operations.py"
    found = runpy.run_path(str(script))
    assert found["PAGE"].read_text(encoding="utf-8") == found["page"](), "run scripts/write_operations.py"


@pytest.mark.parametrize("name", ["open", "fsync", "replace"])
@pytest.mark.parametrize("call", [1, 2])
def test_an_interrupted_write_leaves_no_mixture(name, call, tmp_path, monkeypatch):
    old, new = mixed(), one_operation("linear", 0, wild=False)
    save(old, tmp_path)
    count, real = 0, getattr(os, name)

    def interrupted(*arguments, **options):
        nonlocal count
        count += 1
        if count == call:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            save(new, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [TEXT, TENSORS]
    if call == 1:
        assert_same(load(tmp_path), old)
    else:
        assert "its hash is not the one in network.json" in refusal(tmp_path)
    save(new, tmp_path)
    assert_same(load(tmp_path), new)


# ---------------------------------------- files that somebody else made


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    save(mixed(), folder)
    return folder


def written(folder: Path, text: Any, packed: bytes) -> None:
    """A pair of files whose hash is right."""
    text["sha256"] = hashlib.sha256(packed).hexdigest()
    (folder / TEXT).write_text(json.dumps(text))
    (folder / TENSORS).write_bytes(packed)


def refusal(folder: Path) -> str:
    """The one line of the error that `load` raises."""
    with pytest.raises(ValueError) as caught:
        load(folder)
    return checked(caught.value, folder)


def checked(error: ValueError, folder: Path) -> str:
    line = str(error)
    assert type(error) is ValueError and line.isprintable() and len(line) < len(str(folder)) + 450
    assert any(line.startswith(f"{folder / name} cannot be read as a network (") for name in (TEXT, TENSORS)), line
    assert line.endswith("): freeze the model again, or train it again")
    return line


def at(path: str, value: Any) -> Callable[[Any], None]:
    """Sets the value at a dotted path of the JSON; removes it where that is Ellipsis."""

    def change(text: Any) -> None:
        *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
        for step in way:
            text = text[step]
        text[last] = value
        if value is ...:
            del text[last]

    return change


def both(*changes):
    return lambda text: [change(text) for change in changes]


def doubling(text) -> None:
    """Concatenations that each double their value, until it has billions of entries."""
    one = {"kind": "concatenate", "name": "", "claim": [], "axis": 0, "constants": {}}
    sizes = [8 * 2**k for k in range(1, 28)]
    text["operations"][4:] = [{**one, "inputs": [3 + k] * 2, "shape": [n, 3, 3]} for k, n in enumerate(sizes, 1)]


CONV, POOL, CLAMP, CAT, MOVE, LAST = (f"operations.{k}" for k in range(6))
HUGE = at(f"{CONV}.padding", [10**9, 1])
IN_JSON = {
    "no object": (lambda text: text.clear(), "has no `lipcert`"),
    "another version": (at("lipcert", 2), "its version is 2, not 1"),
    "a version of 1.0": (at("lipcert", 1.0), "its version is 1.0"),
    "an unknown norm": (at("norm", "l3"), "'l3' is not a norm"),
    "an unknown key": (at("pickle", "gASV"), "has an unknown key, 'pickle'"),
    "no norm": (at("norm", ...), "has no `norm`"),
    "an image of side 0": (at("shape", [2, 0, 6]), "not positive"),
    "an image of true": (at("shape", [True, 6, 6]), "is True, not a valid int"),
    "an image of too many axes": (at("shape", [1] * 17), "more than 16 axes"),
    "an image of billions": (at("shape", [2, 2**30, 2**30]), "entries together"),
    "an image of 10**18": (at("shape", [2, 10**18, 6]), "a huge number, not a valid int"),
    "operations by name": (at("operations", {}), "not a list"),
    "too many operations": (at("operations", [0] * (MOST_OPERATIONS + 1)), f"at most {MOST_OPERATIONS} are read"),
    "an operation that is null": (at(CONV, None), "operation 1 has no kind"),
    "an unknown kind": (at(f"{CONV}.kind", "os.system"), "'os.system' is not a kind of operation"),
    "another kind": (at(f"{CONV}.kind", "linear"), "an unknown key, 'size'"),
    "a kind with more fields": (at(f"{CONV}.kind", "transposed_convolution"), "has no `output_padding`"),
    "a class variable": (at(f"{CONV}.arity", 3), "an unknown key, 'arity'"),
    "a later value": (at(f"{CONV}.inputs", [3]), "not computed before it"),
    "its own value": (at(f"{CONV}.inputs", [1]), "not computed before it"),
    "a negative value": (at(f"{POOL}.inputs", [-1]), "not computed before it"),
    "two inputs for one": (at(f"{POOL}.inputs", [1, 1]), "has 2 inputs, not 1"),
    "no inputs": (at(f"{CAT}.inputs", []), "has 0 inputs, not one or more"),
    "nested inputs": (at(f"{POOL}.inputs", [[1]]), "is a list of 1, not a valid int"),
    "another shape": (at(f"{POOL}.shape", [4, 3, 2]), "has the shape (4, 3, 3), not (4, 3, 2)"),
    "a name that colours a terminal": (at(f"{CONV}.name", "\x1b[31m\n"), "not a valid str"),
    "half a character": (at(f"{CONV}.name", "\ud800"), "not a valid str"),
    "a name of a million letters": (at(f"{CONV}.name", "a" * 10**6), "not a valid str"),
    "a claim of words": (at(f"{LAST}.claim", ["one"]), "is 'one', not a valid float"),
    "more claims than rows": (at(f"{LAST}.claim", [1.0] * 11), "has 11 claims"),
    "a claim of what has no norm": (at(f"{POOL}.claim", [1.0]), "has 1 claims"),
    "a whole number for a float": (at(f"{LAST}.claim", [1]), "is 1, not a valid float"),
    "stride 0": (at(f"{CONV}.stride", [0, 1]), "the geometry is impossible"),
    "a negative padding": (at(f"{CONV}.padding", [-1, 1]), "the geometry is impossible"),
    "a padding of 10**9": (HUGE, "billions of entries"),
    "a padding and a stride of 10**9": (
        both(HUGE, at(f"{CONV}.stride", [10**9, 1]), at(f"{CONV}.shape", [4, 3, 6])), "billions of entries"),
    "a window of 10**9": (
        both(at(f"{POOL}.kernel", [10**9, 2]), at(f"{POOL}.padding", [5 * 10**8, 0]), at(f"{POOL}.shape", [4, 4, 3])),
        "far wider"),
    "no axes at all": (both(*(at(f"{CONV}.{n}", []) for n in ("size", "stride", "padding", "dilation"))),
                       "not that of a convolution"),
    "0 for a flag": (at(f"{POOL}.ceil_mode", 0), "is 0, not a valid bool"),
    "more padding than half a window": (at(f"{POOL}.padding", [2, 2]), "more than half of a window"),
    "an unknown function": (at(f"{CLAMP}.function", "__import__"), "`__import__` is not a known function"),
    "low above high": (at(f"{CLAMP}.parameters", ["inf", "-inf"]), "low ≤ high"),
    "NaN in words": (at(f"{CLAMP}.parameters", ["nan", 6.0]), "is 'nan', not a valid float"),
    "an axis too far": (at(f"{CAT}.axis", 3), "has no axis 3"),
    "a huge axis": (at(f"{CAT}.axis", 10**30), "an integer of 31 digits"),
    "values that double": (doubling, "entries together"),
    "an unknown constant": (at(f"{CONV}.constants.shape", "float64"), "an unknown key, 'shape'"),
    "a weight that is not stated": (at(f"{CONV}.constants.weight", ...), "has no `weight`"),
    "a bias that is not stated": (at(f"{CONV}.constants.bias", ...), "'1.bias' belongs to no operation"),
    "a constant of another type": (at(f"{MOVE}.constants.index", "float64"), "not 'int64'"),
    "no hash": (at("sha256", None), "`sha256` is None"),
    "another hash": (at("sha256", "0" * 64), "its hash is not the one in network.json"),
    "no vector at the end": (lambda text: text["operations"].__delitem__(slice(5, None)), "belongs to no operation"),
}  # fmt: skip


@pytest.mark.parametrize("name", IN_JSON)
def test_forged_json(name, saved, tmp_path):
    change, reason = IN_JSON[name]
    text = json.loads((saved / TEXT).read_text())
    change(text)
    (tmp_path / TENSORS).write_bytes((saved / TENSORS).read_bytes())
    (tmp_path / TEXT).write_text(json.dumps(text))
    assert reason in refusal(tmp_path)


NO_JSON = {
    "empty": (b"", "Expecting value"),
    "a pickle": (b"\x80\x04\x95", "codec can't decode"),
    "a list": (b"[]", "it is a list of 0, not an object"),
    "nested deeply": (b"[" * 10**6, "nested too deeply"),
    "NaN": (b'{"lipcert": NaN}', "NaN is not a number"),
    "Infinity": (b'{"lipcert": -Infinity}', "-Infinity is not a number"),
    "1e999": (b'{"lipcert": 1e999}', "has no `norm`"),
    "an integer of a million digits": (b'{"lipcert": ' + b"9" * 10**6 + b"}", "an integer of 1000000 digits"),
    "a key twice": (b'{"lipcert": 1, "lipcert": 1}', "a key appears twice"),
    "5 MB": (b" " * (5 << 20), "at most 4,194,304"),
}


@pytest.mark.parametrize("name", NO_JSON)
def test_no_json(name, saved, tmp_path):
    content, reason = NO_JSON[name]
    (tmp_path / TENSORS).write_bytes((saved / TENSORS).read_bytes())
    (tmp_path / TEXT).write_bytes(content)
    assert reason in refusal(tmp_path)


def set_to(name: str, value: Tensor):
    return lambda tensors: {**tensors, name: value}


def entry(name: str, value: float):
    def change(tensors):
        spoilt = tensors[name].double() if tensors[name].is_floating_point() else tensors[name].long()
        spoilt.view(-1)[0] = value
        return {**tensors, name: spoilt}

    return change


IN_TENSORS = {
    "NaN": (entry("1.weight", math.nan), "weight is not finite"),
    "infinity": (entry("6.bias", math.inf), "bias is not finite"),
    "a constant that is missing": (lambda t: {k: v for k, v in t.items() if k != "1.bias"}, "`bias` is missing"),
    "a superfluous constant": (set_to("7.weight", drawn(2)), "'7.weight' belongs to no operation"),
    "a constant of a foreign name": (set_to("1.shape\n", drawn(2)), r"'1.shape\\n' belongs to no operation"),
    "another shape": (set_to("1.weight", drawn(4, 3, 3, 3)), "it takes images of (3, 6, 6)"),
    "another number of axes": (set_to("1.weight", drawn(4, 18)), "not that of a convolution"),
    "a weight without entries": (set_to("1.weight", drawn(4, 2, 0, 3)), "not that of a convolution"),
    "a weight that is a number": (set_to("6.weight", drawn()), "a weight of () does not fit"),
    "a bias that broadcasts": (set_to("6.bias", drawn(1)), "the bias does not fit"),
    "whole weights": (set_to("6.weight", torch.ones(3, 20, dtype=torch.int64)), "is stored as int64"),
    "complex weights": (set_to("6.weight", torch.ones(3, 20, dtype=torch.complex64)), "is stored as complex64"),
    "weights of eight bits": (set_to("6.weight", torch.ones(3, 20).to(torch.float8_e4m3fn)), "float8_e4m3fn"),
    "a floating index": (set_to("5.index", drawn(20)), "is stored as float64"),
    "an index of flags": (set_to("5.index", torch.ones(20, dtype=torch.bool)), "is stored as bool"),
    "an index too far": (entry("5.index", 72), "a number outside of"),
    "a huge index": (entry("5.index", -(2**63)), "a number outside of"),
    "an empty index": (set_to("5.index", torch.zeros(0, dtype=torch.int64)), "does not hold integers"),
    "an index of many axes": (set_to("5.index", torch.zeros([1] * 17, dtype=torch.int64)), "more than 16 axes"),
}


@pytest.mark.parametrize("name", IN_TENSORS)
def test_forged_tensors(name, saved, tmp_path):
    change, reason = IN_TENSORS[name]
    tensors = change(safetensors.torch.load_file(saved / TENSORS))
    written(tmp_path, json.loads((saved / TEXT).read_text()), safetensors.torch.save(tensors))
    assert reason.replace("\\\\", "\\") in refusal(tmp_path)


def header(change):
    """Changes the header of the tensors' file."""

    def spoil(packed: bytes) -> bytes:
        size = int.from_bytes(packed[:8], "little")
        top = change(json.loads(packed[8 : 8 + size]))
        top = top if isinstance(top, bytes) else json.dumps(top).encode()
        return struct.pack("<Q", len(top)) + top + packed[8 + size :]

    return spoil


def weight(**values):
    return header(lambda top: {**top, "1.weight": {**top["1.weight"], **values}})


def overlapping(top):
    top["1.weight"]["data_offsets"] = top["6.weight"]["data_offsets"]
    return top


SHORT, UNREAD = "cut short", "safetensors cannot read it"
IN_BYTES = {
    "empty": (lambda b: b"", SHORT),
    "cut in the header": (lambda b: b[:100], SHORT),
    "cut by one byte": (lambda b: b[:-1], UNREAD),
    "a byte too many": (lambda b: b + b"\0", UNREAD),
    "a header of 2**64 - 1": (lambda b: b"\xff" * 8 + b[8:], SHORT),
    "a header of 5 MB": (lambda b: struct.pack("<Q", 5 << 20) + b" " * (5 << 20), "its header has more than"),
    "a header of 0": (lambda b: struct.pack("<Q", 0) + b[8:], UNREAD),
    "a nested header": (lambda b: struct.pack("<Q", 1 << 20) + b"[" * (1 << 20), UNREAD),
    "a nested object": (header(lambda top: b'{"a":' * 10**5), UNREAD),
    "a header that is a list": (header(lambda top: []), UNREAD),
    "a negative shape": (weight(shape=[-4, 2, 3, 3]), UNREAD),
    "a shape of 2**62": (weight(shape=[1 << 62, 1 << 62]), UNREAD),
    "a shape of 2**40": (weight(shape=[1 << 40]), UNREAD),
    "an empty shape of 2**63": (weight(shape=[0, 1 << 63], data_offsets=[0, 0]), UNREAD),
    "an unknown type": (weight(dtype="PICKLE"), UNREAD),
    "another type": (weight(dtype="F16"), UNREAD),
    "offsets behind the end": (weight(data_offsets=[0, 1 << 40]), UNREAD),
    "offsets backwards": (weight(data_offsets=[8, 0]), UNREAD),
    "tensors that overlap": (header(overlapping), UNREAD),
}


@pytest.mark.parametrize("name", IN_BYTES)
def test_forged_bytes(name, saved, tmp_path):
    change, reason = IN_BYTES[name]
    packed = change((saved / TENSORS).read_bytes())
    written(tmp_path, json.loads((saved / TEXT).read_text()), packed)
    assert reason in refusal(tmp_path)
    (tmp_path / TEXT).write_bytes((saved / TEXT).read_bytes())  # with the hash that it had
    refusal(tmp_path)


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


PLACES = {
    "missing": (lambda p: p.unlink(), "no such file"),
    "a directory": (lambda p: (p.unlink(), p.mkdir()), "is no regular file"),
    "a pipe": (lambda p: (p.unlink(), os.mkfifo(p)), "is no regular file"),
    "a link": (link, "is no regular file"),
    "a link to a device": (lambda p: (p.unlink(), p.symlink_to("/dev/zero")), "is no regular file"),
}


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("which", [TEXT, TENSORS])
def test_no_file(which, name, saved, tmp_path):
    for one in (TEXT, TENSORS):
        (tmp_path / one).write_bytes((saved / one).read_bytes())
    change, reason = PLACES[name]
    change(tmp_path / which)
    line = refusal(tmp_path)
    assert reason in line and f"{which} cannot be read" in line


def test_no_folder(tmp_path):
    assert "no such file" in refusal(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    assert "not a directory" in refusal(tmp_path / "file")


GUARDED = """
import resource, signal, sys
from pathlib import Path
from lipcert.frozen.file import load
pages = int(Path("/proc/self/statm").read_text().split()[0])
most = pages * resource.getpagesize() + (300 << 20)
resource.setrlimit(resource.RLIMIT_AS, (most, most))
for folder in sys.argv[1:]:
    signal.alarm(20)  # which ends the process
    try:
        load(Path(folder))
    except ValueError as error:
        print(error)
"""


@pytest.mark.slow
def test_the_largest_files_take_neither_time_nor_memory(saved, tmp_path):
    """In a process that may allocate 300 MB more than importing torch does."""
    text = json.loads((saved / TEXT).read_text())

    def place(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        written(folder, text, (saved / TENSORS).read_bytes())
        return folder

    for which in (TEXT, TENSORS):
        for size in (40, 31):  # too large to be read, and too large for the memory
            with open(place(f"sparse {size} {which}") / which, "wb") as handle:
                handle.truncate(1 << size)
    written(place("nonsense of the right hash"), text, struct.pack("<Q", 1000) + b"\xa5" * 3_000_000)
    for name, content in {"lists": b"[" + b"[]," * 1_000_000, "deep": b"[" * 4_000_000}.items():
        (place(name) / TEXT).write_bytes(content)
    top = json.dumps({"1.weight": {"dtype": "F64", "shape": [0] + [1 << 62] * 1000, "data_offsets": [0, 0]}}).encode()
    written(place("many sides"), text, struct.pack("<Q", len(top)) + top)
    names = {f"{k}.a": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for k in range(20_000)}
    top = json.dumps(names).encode()
    written(place("many names"), text, struct.pack("<Q", len(top)) + top)
    step = {**text["operations"][3], "inputs": [0], "shape": [2, 6, 6]}  # a concatenation of one value
    written(place("many operations"), {**text, "operations": [step] * 3_000}, safetensors.torch.save({}))
    wide = {**text, "operations": [{**step, "inputs": [0] * 200_000, "shape": [1_000_000, 6, 6]}]}
    written(place("many inputs"), wide, safetensors.torch.save({}))
    grown = {**text, "operations": [{**text["operations"][4], "inputs": [0], "shape": [1 << 26]}]}
    index = safetensors.torch.save({"1.index": torch.zeros(1 << 26, dtype=torch.int8)})
    written(place("a constant that grows"), grown, index)
    folders = sorted(path for path in tmp_path.iterdir())
    done = subprocess.run(
        [sys.executable, "-c", GUARDED, *map(str, folders)], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    places = [line.partition(" cannot be read as a network")[0] for line in lines]
    assert [place.rpartition("/")[0] for place in places] == [str(folder) for folder in folders]


# ---------------------------------------- random changes


NUMBERS = [0, 1, -1, 2, 3, 5, 7, 100, 2**16, 2**31 - 1, 2**31, -(2**31), 10**18, 10**40]
VALUES = [*NUMBERS, 0.0, -0.0, 1.0, 0.5, 1e308, 5e-324, "inf", "-inf", "nan", ""]
VALUES += ["relu", "tanh", None, True, False, [], {}]


def places(value, found: list) -> list:
    """Every container of the JSON with each of its keys."""
    for key in value if isinstance(value, dict) else range(len(value)):
        found.append((value, key))
        if isinstance(value[key], list | dict):
            places(value[key], found)
    return found


def mutate(text, chance: random.Random) -> None:
    container, key = chance.choice(places(text, []))
    what = chance.randrange(5)
    if what == 0:
        del container[key]
    elif what == 1 and isinstance(container, list):
        container.insert(key, container[key])
    elif what == 2 and type(container[key]) is int:
        container[key] += chance.choice([-2, -1, 1, 2, 10])
    elif what == 3 and isinstance(container[key], list):
        container[key] = chance.choices(NUMBERS, k=chance.randrange(4))
    else:
        container[key] = chance.choice(VALUES)


def random_tensor(tensor: Tensor, chance: random.Random) -> Tensor:
    shape = list(tensor.shape)
    what = chance.randrange(5)
    if what == 0 and shape:
        shape[chance.randrange(len(shape))] = chance.randrange(4)
    elif what == 1:
        shape.insert(chance.randrange(len(shape) + 1), chance.choice([1, 1, 2]))
    elif what == 2 and shape:
        shape.pop()
    dtype = chance.choice([tensor.dtype] * 3 + [torch.float64, torch.int64, torch.uint8, torch.float32, torch.bool])
    return (torch.rand(shape) * 4 - 1).to(dtype)


def spoil(folder: Path, text, tensors: dict[str, Tensor], chance: random.Random) -> None:
    """One to three random changes of a pair: of the JSON, of a tensor, of two tensors, or of the bytes."""
    flips = 0
    for _ in range(chance.choice([1, 1, 2, 3])):
        what = chance.randrange(10)
        if what < 6 and text:
            mutate(text, chance)
        elif what < 8 and tensors:
            one, other = chance.choice(sorted(tensors)), chance.choice(sorted(tensors))
            tensors[one], tensors[other] = tensors[other], tensors[one]
            if one == other:
                tensors[one] = random_tensor(tensors[one], chance)
        else:
            flips += 1
    packed = bytearray(safetensors.torch.save(tensors))
    for _ in range(flips):
        end = len(packed) if chance.random() < 0.5 else min(len(packed), 200)
        packed[chance.randrange(end)] ^= 1 << chance.randrange(8)
    hashed = "sha256" in text
    text["sha256"] = hashlib.sha256(packed).hexdigest() if hashed else None
    content = bytearray(json.dumps(text).encode())
    if chance.random() < 0.1:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    if chance.random() < 0.05:
        content = content[: chance.randrange(len(content))]
    (folder / TEXT).write_bytes(content)
    (folder / TENSORS).write_bytes(packed)


def refused_or_usable(folder: Path) -> bool:
    """Whether a spoilt pair is read; it is then a network that can be evaluated."""
    try:
        network = load(folder)
    except ValueError as error:
        checked(error, folder)
        return False
    if sum(math.prod(operation.shape) for operation in network.operations) < 10**6:
        logits = network(torch.full((2, *network.shape), 0.5, dtype=torch.float64))
        assert logits.shape == (2, network.classes)
    return True


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> list[tuple[str, dict[str, Tensor]]]:
    folder, found = tmp_path_factory.mktemp("pairs"), []
    for network in [*cases(), mixed(), mixed()]:
        save(network, folder)
        found.append(((folder / TEXT).read_text(), safetensors.torch.load_file(folder / TENSORS)))
    return found


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(chance=st.randoms(use_true_random=False))
def test_random_changes(chance, pairs, tmp_path):
    text, tensors = chance.choice(pairs)
    spoil(tmp_path, json.loads(text), dict(tensors), chance)
    refused_or_usable(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_many_random_changes(pairs, tmp_path, seed):
    chance, good = random.Random(seed), 0
    for _ in range(3000):
        text, tensors = chance.choice(pairs)
        spoil(tmp_path, json.loads(text), dict(tensors), chance)
        good += refused_or_usable(tmp_path)
    assert 100 < good < 2000
