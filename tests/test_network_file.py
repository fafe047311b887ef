"""A network's file gives back the same network, and whatever else lies there gives one line of an error, soon."""

import hashlib
import json
import math
import os
import random
import runpy
import struct
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from lipcert.contracts import Norm
from lipcert.frozen import file
from lipcert.frozen.fields import schema
from lipcert.frozen.file import TENSORS, TEXT, load, save, smallest
from lipcert.frozen.network import Network
from lipcert.frozen.operation import tensor_fields
from lipcert.frozen.ops import OPERATIONS

DENORMAL = 5e-324


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def plane(**attributes) -> dict:
    return {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), **attributes}


# For each kind the shape of its input and its fields; every path of its `evaluate` at least once.
EXAMPLES: list[tuple[str, tuple[int, ...], dict]] = [
    ("linear", (5,), {"weight": drawn(3, 5), "bias": drawn(3), "claim": (1.0, math.inf, 0.25)}),
    ("linear", (2, 5), {"weight": drawn(2, 3, 5), "bias": None}),
    ("convolution", (4, 6), {"weight": drawn(2, 2, 3), "bias": drawn(2), "size": (6,), "groups": 2}
     | {"stride": (2,), "padding": (1,), "dilation": (1,)}),
    ("convolution", (2, 5, 5), {"weight": drawn(3, 2, 3, 3), "bias": None, "size": (5, 5), "groups": 1} | plane()),
    ("transposed_convolution", (4, 3, 3), {"weight": drawn(4, 1, 2, 2), "bias": drawn(2), "size": (3, 3), "groups": 2}
     | plane(stride=(2, 2), output_padding=(1, 0))),
    ("along_axis", (2, 4, 3), {"matrix": drawn(2, 4), "axis": 1}),
    ("affine", (2, 3), {"scale": drawn(3), "shift": drawn(2, 1)}),
    ("affine", (2, 3), {"scale": None, "shift": None}),
    ("pointwise", (4,), {"function": "clamp", "parameters": (-math.inf, 6.0)}),
    ("pointwise", (4,), {"function": "elu", "parameters": (1.0, -0.0, 1 / 3)}),
    ("leaky_relu", (4, 2), {"slope": drawn(4, 1)}),
    ("two_sided", (4,), {"function": "relu", "t": None, "axis": 0}),
    ("two_sided", (2, 4), {"function": "tanh", "t": drawn(4).abs() + 1, "axis": 1}),
    ("max_pool", (2, 6, 6), {"kernel": (3, 2), "ceil_mode": True} | plane(stride=(2, 2), padding=(1, 0))),
    ("adaptive_max_pool", (2, 6), {"output_size": (4,)}),
    ("norm_pool", (2, 6, 6), {"kernel": (2, 2), "stride": (2, 2), "divisor": 4, "delta": 1e-12}),
    ("subtract_mean", (2, 6), {"axes": (0, 1)}),
    ("sort", (2, 6), {"axis": 1, "descending": True}),
    ("min_max", (2, 3), {"axis": 0}),
    ("maximum", (3,), {"minimum": True}),
    ("add", (3,), {"minus": True}),
    ("concatenate", (2, 3), {"axis": 1}),
    ("split", (3,), {"first": drawn(3), "second": drawn(1)}),
    ("merge", (3,), {"first": drawn(3), "second": drawn()}),
    ("reshape", (2, 6), {"shape": (3, 1, 4)}),
    ("permute", (2, 3, 4), {"axes": (2, 0, 1)}),
    ("slice", (2, 9), {"axis": 1, "start": 1, "stop": 8, "step": 3}),
    ("rearrange", (2, 3), {"index": torch.tensor([[0, -1], [5, 5]])}),
    ("distance", (4,), {"weight": drawn(3, 4), "p": math.inf}),
    ("distance", (4,), {"weight": drawn(3, 4), "p": 1.0}),
    ("distance_convolution", (2, 5, 5), {"weight": drawn(2, 1, 3, 3), "stride": 2, "padding": 1, "groups": 2}),
    ("nearest_neighbour", (1, 2, 2), {"images": torch.randint(256, (5, 1, 2, 2), dtype=torch.uint8)}
     | {"labels": torch.tensor([0, 2, 2, 0, 2]), "classes": 3}),
    ("recurrent", (3, 2), {"weight": drawn(2, 6), "bias": drawn(2), "cos": drawn(), "sin": drawn()}),
]  # fmt: skip


def operation(kind: str, inputs: tuple[int, ...], *shapes: tuple[int, ...], **values):
    made = OPERATIONS[kind](inputs=inputs, **{"shape": (), "name": f"layers.{kind}", **values})
    return replace(made, shape=made.result_shape(*shapes))


def ended(shape: tuple[int, ...], operations: list) -> Network:
    """A network that ends in one vector."""
    last = operations[-1].shape
    if len(last) != 1:
        flat = (math.prod(last),)
        operations = [*operations, operation("reshape", (len(operations),), last, shape=flat)]
    return Network(shape, tuple(operations), Norm.LINF)


def example(kind: str, shape: tuple[int, ...], values: dict) -> Network:
    arity = OPERATIONS[kind].arity
    count = 3 if arity is None else arity
    return ended(shape, [operation(kind, (0,) * count, *(shape,) * count, **values)])


NETWORKS = [example(*one) for one in EXAMPLES]


def mixed() -> Network:
    """A network with something of everything, to be spoilt."""
    conv = {"weight": drawn(4, 2, 3, 3), "bias": drawn(4), "size": (6, 6), "groups": 1} | plane(padding=(1, 1))
    pool = {"kernel": (2, 2), "ceil_mode": False} | plane(stride=(2, 2))
    steps = [
        operation("convolution", (0,), (2, 6, 6), **conv),
        operation("max_pool", (1,), (4, 6, 6), **pool),
        operation("pointwise", (2,), (4, 3, 3), function="clamp", parameters=(-math.inf, 6.0)),
        operation("concatenate", (2, 3), (4, 3, 3), (4, 3, 3), axis=0),
        operation("rearrange", (4,), (8, 3, 3), index=torch.arange(20) - 1),
        operation("linear", (5,), (20,), weight=drawn(3, 20), bias=drawn(3), claim=(1.0,)),
    ]
    return Network((2, 6, 6), tuple(steps), Norm.L2)


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


# ---------------------------------------- the way there and back


def test_there_is_an_example_of_every_kind():
    assert {kind for kind, *_ in EXAMPLES} == set(OPERATIONS)


@pytest.mark.parametrize("network", NETWORKS, ids=[kind for kind, *_ in EXAMPLES])
def test_a_network_comes_back_bit_by_bit(network, tmp_path):
    save(network, tmp_path / "new" / "folder")
    back = load(tmp_path / "new" / "folder")
    assert_same(network, back)
    images = torch.rand(3, *network.shape, dtype=torch.float64)
    assert network(images).numpy().tobytes() == back(images).numpy().tobytes()
    save(back, tmp_path)  # and is written as it was
    for name in (TEXT, TENSORS):
        assert (tmp_path / name).read_bytes() == (tmp_path / "new" / "folder" / name).read_bytes()


@pytest.mark.parametrize(
    ("values", "dtype", "stored"),
    [
        ([0.5, -0.0, 65504.0, 2.0**-24], torch.float64, torch.float16),
        ([1.0, 2.0**100, -(2.0**-133)], torch.float64, torch.bfloat16),
        ([1 + 2.0**-20], torch.float64, torch.float32),
        ([2.0**-149, -0.0], torch.float64, torch.float32),
        ([0.1], torch.float64, torch.float64),
        ([DENORMAL], torch.float64, torch.float64),
        ([65536.0, 1 + 2.0**-10], torch.float64, torch.float32),
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


def test_a_network_of_float32_takes_four_bytes_an_entry(tmp_path):
    weight = torch.randn(100, 1000).double()
    save(ended((1000,), [operation("linear", (0,), (1000,), weight=weight, bias=None)]), tmp_path)
    assert weight.numel() * 4 <= (tmp_path / TENSORS).stat().st_size + (tmp_path / TEXT).stat().st_size < 401_000


def test_shared_and_strided_constants_are_stored_whole(tmp_path):
    weight = drawn(4, 4)
    steps = [
        operation("linear", (0,), (4,), weight=weight, bias=None),
        operation("linear", (1,), (4,), weight=weight.T, bias=weight[0]),
        operation("affine", (2,), (4,), scale=drawn(1).expand(4), shift=None),
    ]
    save(ended((4,), steps), tmp_path)
    images = torch.rand(2, 4, dtype=torch.float64)
    assert torch.allclose(load(tmp_path)(images), ended((4,), steps)(images), rtol=1e-15)


def test_names_are_made_printable_and_numbers_that_are_none_are_not_written(tmp_path):
    add = {"name": "a\n\x1b[31mb" + "c" * 2000, "minus": False}
    save(ended((2,), [operation("add", (0, 0), (2,), (2,), **add)]), tmp_path)
    assert load(tmp_path).operations[0].name == ("a[31mb" + "c" * 2000)[:1000]
    with pytest.raises(ValueError, match="can't be stored"):
        save(ended((2,), [operation("add", (0, 0), (2,), (2,), minus=False, claim=(math.nan,))]), tmp_path)


def test_the_schema_has_every_field_and_fits_what_is_written(tmp_path):
    assert set(schema()) == set(OPERATIONS)
    for network in NETWORKS:
        save(network, tmp_path)
        for entry in json.loads((tmp_path / TEXT).read_text())["operations"]:
            one = schema()[entry["kind"]]
            assert list(entry) == one["required"] == list(one["properties"])
            assert set(one["properties"]["constants"]["properties"]) == set(tensor_fields(OPERATIONS[entry["kind"]]))
            assert set(entry["constants"].items()) <= {
                (name, value["const"]) for name, value in one["properties"]["constants"]["properties"].items()
            }
    assert schema()["recurrent"]["properties"]["constants"]["required"] == ["weight", "cos", "sin"]


def test_the_page_of_operations_is_up_to_date():
    script = Path(__file__).parents[1] / "scripts" / "write_operations.py"
    found = runpy.run_path(str(script))
    assert found["PAGE"].read_text(encoding="utf-8") == found["page"](), "run scripts/write_operations.py"


# ---------------------------------------- replaced whole


@pytest.mark.parametrize("name", ["open", "fsync", "replace"])
@pytest.mark.parametrize("call", [1, 2])
def test_a_write_that_breaks_off_leaves_no_mix(name, call, tmp_path, monkeypatch):
    old, new = mixed(), NETWORKS[0]
    save(old, tmp_path)
    count, real = 0, open if name == "open" else getattr(os, name)

    def breaks_off(*arguments, **options):
        nonlocal count
        count += 1
        if count == call:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(*((file, "open") if name == "open" else (os, name)), breaks_off, raising=False)
        with pytest.raises(KeyboardInterrupt):
            save(new, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [TEXT, TENSORS]
    if call == 1:
        assert_same(load(tmp_path), old)
    else:
        with pytest.raises(ValueError, match="not the one that network.json was written with"):
            load(tmp_path)
    save(new, tmp_path)
    assert_same(load(tmp_path), new)


def test_no_link_is_written_through(tmp_path):
    other = tmp_path / "other"
    other.write_text("kept")
    (tmp_path / "run").mkdir()
    for name in (TEXT, TENSORS, f".{TEXT}.{os.getpid()}.partial"):
        (tmp_path / "run" / name).symlink_to(other)
    save(mixed(), tmp_path / "run")
    load(tmp_path / "run")
    assert other.read_text() == "kept"


# ---------------------------------------- forged


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    save(mixed(), folder)
    return folder


def written(folder: Path, text, packed: bytes) -> None:
    """A pair of files whose hash is right."""
    text["sha256"] = hashlib.sha256(packed).hexdigest()
    (folder / TEXT).write_text(json.dumps(text))
    (folder / TENSORS).write_bytes(packed)


def refusal(folder: Path) -> str:
    """The one line that `load` says."""
    with pytest.raises(ValueError) as caught:
        load(folder)
    assert type(caught.value) is ValueError
    line = str(caught.value)
    assert line.startswith(str(folder)) and line.isprintable() and len(line) < len(str(folder)) + 450
    assert line.endswith("): freeze it again, or train the run anew")
    assert f"/{TEXT} is no network of lipcert (" in line or f"/{TENSORS} is no network of lipcert (" in line
    return line


def at(path: str, value, *, add: bool = False):
    """Sets the value at a dotted path of the JSON."""

    def change(text) -> None:
        *way, last = [int(step) if step.lstrip("-").isdigit() else step for step in path.split(".")]
        for step in way:
            text = text[step]
        assert add or last in range(len(text)) or last in text
        text[last] = value

    return change


def without(path: str):
    def change(text) -> None:
        *way, last = path.split(".")
        for step in way:
            text = text[int(step) if step.isdigit() else step]
        del text[last]

    return change


def both(*changes):
    return lambda text: [change(text) for change in changes]


def doubling(text) -> None:
    """Concatenations that double their value, until it has billions of entries."""
    one = {"kind": "concatenate", "name": "", "claim": [], "axis": 0, "constants": {}}
    sizes = [8 * 2**k for k in range(1, 28)]
    text["operations"][4:] = [{**one, "inputs": [3 + k] * 2, "shape": [n, 3, 3]} for k, n in enumerate(sizes, 1)]


CONV, POOL, CLAMP, CAT, MOVE, LAST = (f"operations.{k}" for k in range(6))
IN_JSON = {
    "no object": (lambda text: text.clear(), "has no `lipcert`"),
    "another version": (at("lipcert", 2), "version 2 of the format is not 1"),
    "a version that is true": (at("lipcert", True), "version True"),
    "a version of 1.0": (at("lipcert", 1.0), "version 1.0"),
    "an unknown norm": (at("norm", "l3"), "no norm 'l3'"),
    "a norm that is a list": (at("norm", ["l2"]), "no norm a list of 1"),
    "an unknown key": (at("pickle", "gASV", add=True), "'pickle', which is not known"),
    "no norm": (without("norm"), "has no `norm`"),
    "an image without sides": (at("shape", []), "are due, not ()"),
    "an image of side 0": (at("shape", [2, 0, 6]), "not positive"),
    "an image of negative sides": (at("shape", [2, -6, -6]), "not positive"),
    "an image of true": (at("shape", [True, 6, 6]), "is True, where int is due"),
    "an image of 2.0": (at("shape", [2.0, 6, 6]), "is 2.0, where int is due"),
    "an image of too many axes": (at("shape", [1] * 17), "more than 16 axes"),
    "an image of billions": (at("shape", [2, 2**30, 2**30]), "more than 2147483648 entries"),
    "an image of 10**18": (at("shape", [2, 10**18, 6]), "a huge number, where int is due"),
    "a shape that is a word": (at("shape", "266"), "is '266', where a list is due"),
    "no operations": (at("operations", []), "belongs to no operation"),
    "operations by name": (at("operations", {}), "where a list is due"),
    "too many operations": (at("operations", [0] * 100_001), "more than 100000"),
    "an operation that is null": (at(CONV, None), "operation 1 has no kind"),
    "an unknown kind": (at(f"{CONV}.kind", "os.system"), "no operation 'os.system'"),
    "a kind that is a list": (at(f"{CONV}.kind", ["linear"]), "has no kind"),
    "another kind": (at(f"{CONV}.kind", "linear"), "'size', which is not known"),
    "a kind with more fields": (at(f"{CONV}.kind", "transposed_convolution"), "has no `output_padding`"),
    "an unknown field": (at(f"{CONV}.evaluate", "x", add=True), "'evaluate', which is not known"),
    "a field that is missing": (without(f"{CONV}.groups"), "has no `groups`"),
    "a class variable": (at(f"{CONV}.arity", 3, add=True), "'arity', which is not known"),
    "a later value": (at(f"{CONV}.inputs", [3]), "not there yet"),
    "its own value": (at(f"{CONV}.inputs", [1]), "not there yet"),
    "a negative value": (at(f"{POOL}.inputs", [-1]), "not there yet"),
    "two inputs for one": (at(f"{POOL}.inputs", [1, 1]), "reads 1, not 2"),
    "no inputs": (at(f"{CAT}.inputs", []), "reads at least one, not 0"),
    "an input of true": (at(f"{POOL}.inputs", [True]), "is True, where int is due"),
    "an input of null": (at(f"{POOL}.inputs", None), "where a list is due"),
    "nested inputs": (at(f"{POOL}.inputs", [[1]]), "is a list of 1, where int is due"),
    "another shape": (at(f"{POOL}.shape", [4, 3, 2]), "gives (4, 3, 3), not (4, 3, 2)"),
    "a shape of one axis less": (at(f"{POOL}.shape", [36]), "gives (4, 3, 3), not (36,)"),
    "a name with a line end": (at(f"{CONV}.name", "a\nb"), "where str is due"),
    "a name that colours a terminal": (at(f"{CONV}.name", "\x1b[31m"), "where str is due"),
    "half a character": (at(f"{CONV}.name", "\ud800"), "where str is due"),
    "a name of a million letters": (at(f"{CONV}.name", "a" * 10**6), "where str is due"),
    "a name that is a number": (at(f"{CONV}.name", 1), "is 1, where str is due"),
    "a claim that is a number": (at(f"{LAST}.claim", 1.0), "where a list is due"),
    "a claim of words": (at(f"{LAST}.claim", ["one"]), "is 'one', where float is due"),
    "a claim of true": (at(f"{LAST}.claim", [True]), "is True, where float is due"),
    "a whole number for a float": (at(f"{LAST}.claim", [1]), "is 1, where float is due"),
    "stride 0": (at(f"{CONV}.stride", [0, 1]), "an impossible geometry"),
    "a negative stride": (at(f"{CONV}.stride", [1, -1]), "an impossible geometry"),
    "a negative dilation": (at(f"{CONV}.dilation", [-1, 1]), "an impossible geometry"),
    "a negative padding": (at(f"{CONV}.padding", [-1, 1]), "an impossible geometry"),
    "a padding of 10**9": (at(f"{CONV}.padding", [10**9, 1]), "a geometry of billions"),
    "a padding of 10**9 that is stated": (
        both(at(f"{CONV}.padding", [10**9, 1]), at(f"{CONV}.shape", [4, 2 * 10**9 + 4, 6])), "entries"),
    "a padding and a stride of 10**9": (
        both(at(f"{CONV}.padding", [10**9, 1]), at(f"{CONV}.stride", [10**9, 1]), at(f"{CONV}.shape", [4, 3, 6])),
        "a geometry of billions"),
    "a window of 10**9": (
        both(at(f"{POOL}.kernel", [10**9, 2]), at(f"{POOL}.padding", [5 * 10**8, 0]), at(f"{POOL}.shape", [4, 4, 3])),
        "far wider"),
    "a stride of one axis": (at(f"{CONV}.stride", [1]), "one number an axis"),
    "no axes at all": (both(*(at(f"{CONV}.{n}", []) for n in ("size", "stride", "padding", "dilation"))),
                       "no convolution"),
    "no groups": (at(f"{CONV}.groups", 0), "an impossible geometry"),
    "groups that do not divide": (at(f"{CONV}.groups", 3), "are due, not"),
    "groups of 1.0": (at(f"{CONV}.groups", 1.0), "is 1.0, where int is due"),
    "a word for a flag": (at(f"{POOL}.ceil_mode", "no"), "where bool is due"),
    "0 for a flag": (at(f"{POOL}.ceil_mode", 0), "is 0, where bool is due"),
    "more padding than half a window": (at(f"{POOL}.padding", [2, 2]), "more padding than half a window"),
    "an unknown function": (at(f"{CLAMP}.function", "__import__"), "no function `__import__`"),
    "a function of too few numbers": (at(f"{CLAMP}.parameters", [1.0]), "takes the numbers"),
    "low above high": (at(f"{CLAMP}.parameters", ["inf", "-inf"]), "low ≤ high"),
    "a number in words": (at(f"{CLAMP}.parameters", ["nan", 6.0]), "is 'nan', where float is due"),
    "another function": (at(f"{CLAMP}.function", "elu"), "takes the numbers"),
    "an axis too far": (at(f"{CAT}.axis", 3), "axis 3 of"),
    "a negative axis": (at(f"{CAT}.axis", -1), "axis -1 of"),
    "a huge axis": (at(f"{CAT}.axis", 10**30), "an integer of 31 digits"),
    "values that double": (doubling, "entries"),
    "a value of 2**31": (both(at(f"{CAT}.shape", [2**30, 2, 1])), "entries"),
    "constants in a list": (at(f"{CONV}.constants", ["weight"]), "where an object is due"),
    "an unknown constant": (at(f"{CONV}.constants.shape", "float64", add=True), "'shape', which is not known"),
    "a weight that is not stated": (without(f"{CONV}.constants.weight"), "has no `weight`"),
    "a bias that is not stated": (without(f"{CONV}.constants.bias"), "'1.bias' belongs to no operation"),
    "a constant of another type": (at(f"{CONV}.constants.weight", "object"), "where 'float64' is due"),
    "a floating index": (at(f"{MOVE}.constants.index", "float64"), "where 'int64' is due"),
    "a whole weight": (at(f"{CONV}.constants.weight", "int64"), "where 'float64' is due"),
    "no hash": (at("sha256", None), "`sha256` is None"),
    "another hash": (at("sha256", "0" * 64), "not the one that network.json was written with"),
    "an operation left out": (lambda text: text["operations"].pop(0), ""),
    "no vector at the end": (lambda text: text["operations"].pop(), "belongs to no operation"),
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
    "not JSON": (b"\x89PNG\r\n", "codec can't decode"),
    "a pickle": (b"\x80\x04\x95", "codec can't decode"),
    "UTF-16": ("{}".encode("utf-16"), "codec can't decode"),
    "a list": (b"[]", "a list of 0, where an object is due"),
    "null": (b"null", "is None"),
    "cut short": (b'{"lipcert": 1, "norm"', "Expecting ':'"),
    "nested deeply": (b"[" * 10**6, "nested too deeply"),
    "objects nested deeply": (b'{"a":' * 10**6, "nested too deeply"),
    "NaN": (b'{"lipcert": NaN}', "NaN is no number"),
    "Infinity": (b'{"lipcert": -Infinity}', "-Infinity is no number"),
    "1e999": (b'{"lipcert": 1e999}', "has no `norm`"),
    "an integer of a million digits": (b'{"lipcert": ' + b"9" * 10**6 + b"}", "an integer of 1000000 digits"),
    "a key twice": (b'{"lipcert": 1, "lipcert": 1}', "a key appears twice"),
    "followed by more": (b"{} {}", "Extra data"),
    "17 MB": (b" " * (17 << 20), "more than 16777216 bytes"),
}


@pytest.mark.parametrize("name", NO_JSON)
def test_no_json(name, saved, tmp_path):
    content, reason = NO_JSON[name]
    (tmp_path / TENSORS).write_bytes((saved / TENSORS).read_bytes())
    (tmp_path / TEXT).write_bytes(content)
    assert reason in refusal(tmp_path)


def set_to(name: str, value):
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
    "none at all": (lambda t: {}, "`weight` is missing"),
    "a superfluous constant": (set_to("7.weight", drawn(2)), "'7.weight' belongs to no operation"),
    "a constant of a foreign name": (set_to("1.shape\n", drawn(2)), "'1.shape\\\\n' belongs to no operation"),
    "another shape": (set_to("1.weight", drawn(4, 3, 3, 3)), "are due, not"),
    "another number of axes": (set_to("1.weight", drawn(4, 18)), "no convolution"),
    "a weight without entries": (set_to("1.weight", drawn(4, 2, 0, 3)), "no convolution"),
    "a weight that is a number": (set_to("6.weight", drawn()), "a weight of ()"),
    "a bias that does not fit": (set_to("6.bias", drawn(2)), "a bias that does not fit"),
    "a bias that broadcasts": (set_to("6.bias", drawn(1)), "a bias that does not fit"),
    "whole weights": (set_to("6.weight", torch.ones(3, 20, dtype=torch.int64)), "is stored as int64"),
    "weights of flags": (set_to("6.weight", torch.ones(3, 20, dtype=torch.bool)), "is stored as bool"),
    "complex weights": (set_to("6.weight", torch.ones(3, 20, dtype=torch.complex64)), "is stored as complex64"),
    "weights of eight bits": (set_to("6.weight", torch.ones(3, 20).to(torch.float8_e4m3fn)), "float8_e4m3fn"),
    "a floating index": (set_to("5.index", drawn(20)), "is stored as float64"),
    "an index of flags": (set_to("5.index", torch.ones(20, dtype=torch.bool)), "is stored as bool"),
    "an index of uint64": (set_to("5.index", torch.ones(20, dtype=torch.uint64)), "is stored as uint64"),
    "an index too far": (entry("5.index", 72), "an index outside"),
    "an index below -1": (entry("5.index", -2), "an index outside"),
    "a huge index": (entry("5.index", -(2**63)), "an index outside"),
    "an empty index": (set_to("5.index", torch.zeros(0, dtype=torch.int64)), "an index of whole numbers is due"),
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


IN_BYTES = {
    "empty": (lambda b: b"", "cut short"),
    "seven bytes": (lambda b: b[:7], "cut short"),
    "cut in the header": (lambda b: b[:100], "cut short"),
    "cut in the middle": (lambda b: b[: len(b) // 2], "can't be read"),
    "cut by one byte": (lambda b: b[:-1], "can't be read"),
    "a byte too many": (lambda b: b + b"\0", "can't be read"),
    "a header of 2**64 - 1": (lambda b: b"\xff" * 8 + b[8:], "cut short"),
    "a header of 2**63": (lambda b: struct.pack("<Q", 1 << 63) + b[8:], "cut short"),
    "a header of 20 MB": (lambda b: struct.pack("<Q", 20 << 20) + b" " * (20 << 20), "its header has more than"),
    "a header of 0": (lambda b: struct.pack("<Q", 0) + b[8:], "can't be read"),
    "a header of spaces": (lambda b: struct.pack("<Q", 1 << 20) + b" " * (1 << 20), "can't be read"),
    "a nested header": (lambda b: struct.pack("<Q", 1 << 20) + b"[" * (1 << 20), "can't be read"),
    "a nested object": (header(lambda top: b'{"a":' * 10**5), "can't be read"),
    "a header in Latin-1": (header(lambda top: b'{"\xe9": 1}'), "can't be read"),
    "a header that is a list": (header(lambda top: []), "can't be read"),
    "a negative shape": (weight(shape=[-4, 2, 3, 3]), "can't be read"),
    "a shape of 2**62": (weight(shape=[1 << 62, 1 << 62]), "can't be read"),
    "a shape of 10**30": (weight(shape=[10**30]), "can't be read"),
    "a shape of 1.5": (weight(shape=[1.5]), "can't be read"),
    "an empty shape of 2**63": (weight(shape=[0, 1 << 63], data_offsets=[0, 0]), "can't be read"),
    "an unknown type": (weight(dtype="PICKLE"), "can't be read"),
    "another type": (weight(dtype="F16"), "can't be read"),
    "offsets behind the end": (weight(data_offsets=[0, 1 << 40]), "can't be read"),
    "offsets backwards": (weight(data_offsets=[8, 0]), "can't be read"),
    "negative offsets": (weight(data_offsets=[-8, 568]), "can't be read"),
    "tensors that overlap": (header(overlapping), "can't be read"),
    "a zip": (lambda b: b"PK\x03\x04" + b[4:], "cut short"),
}


@pytest.mark.parametrize("name", IN_BYTES)
def test_forged_bytes(name, saved, tmp_path):
    change, reason = IN_BYTES[name]
    packed = change((saved / TENSORS).read_bytes())
    written(tmp_path, json.loads((saved / TEXT).read_text()), packed)
    assert reason in refusal(tmp_path)
    (tmp_path / TEXT).write_bytes((saved / TEXT).read_bytes())  # with the hash that it had
    refusal(tmp_path)


# ---------------------------------------- what lies there is no file


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


PLACES = {
    "missing": (lambda p: p.unlink(), "no such file"),
    "a directory": (lambda p: (p.unlink(), p.mkdir()), "no regular file"),
    "a pipe": (lambda p: (p.unlink(), os.mkfifo(p)), "no regular file"),
    "a link": (link, "it is a link"),
    "a link to /dev/zero": (lambda p: (p.unlink(), p.symlink_to("/dev/zero")), "it is a link"),
    "a link to itself": (lambda p: (p.unlink(), p.symlink_to(p)), "it is a link"),
    "unreadable": (lambda p: p.chmod(0), "permission denied"),
}


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("which", [TEXT, TENSORS])
def test_no_file(which, name, saved, tmp_path):
    if name == "unreadable" and os.geteuid() == 0:
        pytest.skip("root reads everything")
    for one in (TEXT, TENSORS):
        (tmp_path / one).write_bytes((saved / one).read_bytes())
    change, reason = PLACES[name]
    change(tmp_path / which)
    line = refusal(tmp_path)
    assert reason in line and f"{which} is no network" in line


def test_no_folder(tmp_path):
    assert "no such file" in refusal(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    assert "not a directory" in refusal(tmp_path / "file")


GUARDED = """
import resource, signal, sys
from pathlib import Path
from lipcert.frozen.file import load
pages = int(Path("/proc/self/statm").read_text().split()[0])
most = pages * resource.getpagesize() + (1200 << 20)
resource.setrlimit(resource.RLIMIT_AS, (most, most))
for folder in sys.argv[1:]:
    signal.alarm(60)  # which ends the process
    try:
        load(Path(folder))
    except ValueError as error:
        print(error)
"""


def test_the_nastiest_take_neither_time_nor_memory(saved, tmp_path):
    """In a process that may take 1.2 GB more than torch itself does, a minute each on a busy machine."""
    text = json.loads((saved / TEXT).read_text())

    def place(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        written(folder, text, (saved / TENSORS).read_bytes())
        return folder

    for which in (TEXT, TENSORS):
        for name in ("zero", "pipe", "sparse"):
            path = place(f"{name} {which}") / which
            path.unlink()
            if name == "zero":
                path.symlink_to("/dev/zero")
            elif name == "pipe":
                os.mkfifo(path)
            else:
                with open(path, "wb") as handle:
                    handle.truncate(1 << 40)
    (place("nonsense") / TEXT).write_bytes(b"\xa5" * 100_000_000)
    written(place("nonsense of the right hash"), text, struct.pack("<Q", 1000) + b"\xa5" * 100_000_000)
    for name, content in {"lists": b"[" + b"[]," * 2_000_000, "deep": b"[" * 16_000_000}.items():
        (place(name) / TEXT).write_bytes(content)
    shapes = {"1.weight": {"dtype": "F64", "shape": [0] + [1 << 62] * 1000, "data_offsets": [0, 0]}}
    top = json.dumps(shapes).encode()
    written(place("many sides"), text, struct.pack("<Q", len(top)) + top)
    none = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    names = json.dumps({f"{k}.a": none for k in range(50_000)}).encode()
    written(place("many names"), text, struct.pack("<Q", len(names)) + names)
    step = {**text["operations"][3], "inputs": [0], "shape": [2, 6, 6]}  # a concatenation of one value
    long = {**text, "operations": [step] * 10_000}
    written(place("many operations"), long, safetensors.torch.save({}))
    wide = {**text, "operations": [{**step, "inputs": [0] * 500_000, "shape": [1_000_000, 6, 6]}]}
    written(place("many inputs"), wide, safetensors.torch.save({}))
    folders = sorted(path for path in tmp_path.iterdir())
    done = subprocess.run(
        [sys.executable, "-c", GUARDED, *map(str, folders)], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.rpartition("/")[0] for line in [line.partition(" is no network")[0] for line in lines]] == [
        str(folder) for folder in folders
    ]


# ---------------------------------------- at random


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
    """One to three random changes of a pair, each of the JSON, of a tensor, or of the bytes."""
    flips = 0
    for _ in range(chance.choice([1, 1, 2, 3])):
        what = chance.randrange(10)
        if what < 6:
            mutate(text, chance)
        elif what < 8 and tensors:
            name = chance.choice(sorted(tensors))
            tensors[name] = random_tensor(tensors[name], chance)
        else:
            flips += 1
    packed = bytearray(safetensors.torch.save(tensors))
    for _ in range(flips):
        end = len(packed) if chance.random() < 0.5 else min(len(packed), 200)
        packed[chance.randrange(end)] ^= 1 << chance.randrange(8)
    text = text if isinstance(text, dict) else {}
    hashed = "sha256" in text
    text["sha256"] = hashlib.sha256(packed).hexdigest() if hashed else None
    content = bytearray(json.dumps(text).encode())
    if chance.random() < 0.1:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    (folder / TEXT).write_bytes(content)
    (folder / TENSORS).write_bytes(packed)


def fuzz(folder: Path, count: int, seed: int) -> int:
    """How many of so many spoilt pairs were read: each of those runs."""
    chance, good = random.Random(seed), 0
    torch.manual_seed(seed)
    pairs = []
    for network in [*NETWORKS, mixed(), mixed()]:
        save(network, folder)
        pairs.append(((folder / TEXT).read_text(), safetensors.torch.load_file(folder / TENSORS)))
    for _ in range(count):
        text, tensors = chance.choice(pairs)
        spoil(folder, json.loads(text), dict(tensors), chance)
        try:
            network = load(folder)
        except ValueError as error:
            assert type(error) is ValueError and str(error).isprintable() and str(folder) in str(error)
            continue
        good += 1
        if sum(math.prod(operation.shape) for operation in network.operations) < 10**6:
            logits = network(torch.full((2, *network.shape), 0.5, dtype=torch.float64))
            assert logits.shape == (2, network.classes)
    return good


@pytest.mark.timeout(60)
def test_random_changes(tmp_path):
    assert 10 < fuzz(tmp_path, 300, 0) < 200


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_many_random_changes(tmp_path, seed):
    assert 100 < fuzz(tmp_path, 3000, seed) < 2000
