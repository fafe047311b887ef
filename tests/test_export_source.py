"""A network as source for PyTorch: the same logits bit by bit, laid out for a reader, nothing pasted from a file."""

import ast
import importlib.util
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from configurations import CONF, names
from frozen_builder import Builder
from frozen_cases import KINDS, grown, one_operation

from lipcert.export import source as export
from lipcert.export.source_statements import FUNCTIONS, WRITERS
from lipcert.frozen import file
from lipcert.frozen.freeze import freeze
from lipcert.frozen.network import Network
from lipcert.frozen.ops import OPERATIONS
from lipcert.frozen.ops import functions as frozen

IMPORTED = {"pathlib", "torch", "safetensors.torch", "torch.nn"}


def imported(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("exported", folder / "network.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_same(network: Network, folder: Path) -> torch.nn.Module:
    """Writes a network, and compares the logits of its source with those of its file."""
    export.write(network, folder)
    x = torch.rand((3, *network.shape), dtype=torch.float64)
    written = imported(folder).load(folder, torch.float64)
    assert torch.equal(written(x), file.load(folder)(x))
    return written


def ruff(folder: Path) -> str:
    """What ruff says of all files in a folder, as it is set without a configuration."""
    said = ""
    for command in (["format", "--check", "--diff"], ["check", "--select", "E,F,I,B,UP"]):
        line = [sys.executable, "-m", "ruff", *command, "--isolated", "--no-cache", "--quiet", str(folder)]
        said += subprocess.run(line, capture_output=True, text=True).stdout
    return said


def everything(seed: int) -> Network:
    """Each kind of operation and each function, all of them of the image: with forks, and with more inputs of one
    operation than a line holds."""
    cases = {"clamp": (-0.5, float("inf")), "leaky_relu": (-0.5,), "softplus": (20.0,), "softshrink": (0.5,)}
    cases["elu"] = (1.7, 1.05, 0.5)
    b = Builder(seed, (2, 3, 3))
    outputs = [b.add("pointwise", 0, function=f, parameters=cases.get(f, ()), name=f"its {f}") for f in FUNCTIONS]
    for kind, add in KINDS.items():
        while (value := attempt(add, b)) is None:
            continue
        outputs.append(b.add("affine", value, scale=None, shift=torch.ones(1), name=f"a.long.name.for.{kind}"))
    b.add("concatenate", *map(b.as_vector, [0, *outputs]), axis=0, name="join")
    return b.network(classes=3)


def attempt(add: Callable[[Builder, int], int], b: Builder) -> int | None:
    """The value of an operation on the image; None where this draw of it does not fit."""
    try:
        return add(b, 0)
    except ValueError:
        return None


def test_every_kind_and_every_function_is_written():
    assert set(WRITERS) == set(OPERATIONS) and set(FUNCTIONS) == set(frozen.FUNCTIONS)


def test_logits_are_the_same_bit_by_bit_and_the_source_is_well_laid_out(tmp_path):
    for seed in (0, 1):
        assert_same(everything(seed), tmp_path / str(seed))
    for path in tmp_path.glob("*/network.py"):
        nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Import | ast.ImportFrom)]
        assert {n.module if isinstance(n, ast.ImportFrom) else n.names[0].name for n in nodes} <= IMPORTED
    assert ruff(tmp_path) == ""


def test_it_is_of_float32_unless_asked(tmp_path):
    network = one_operation("convolution", 1, wild=False)
    export.write(network, tmp_path)
    single, x = imported(tmp_path).load(tmp_path), torch.rand((3, *network.shape))
    assert single(x).dtype == torch.float32 and not single.training
    assert torch.equal(single(x), file.load(tmp_path).to(dtype=torch.float32)(x))
    rounded = file.load(tmp_path).to(dtype=torch.float32).to(dtype=torch.float64)
    assert torch.equal(single.double()(x.double()), rounded(x.double()))


HOSTILE = (
    "",
    "0",
    "x",
    "self",
    "class",
    "forward",
    "__class__",
    "é",
    "F",
    "torch",
    "print",
    "list",
    "CONSTANTS",
    "y" * 999,
)
CODE = (
    '"""\nimport os\n"""',
    "a']; import os; x['",
    "x\\",
    "{version}",
    "%s",
    "a" + "\u2028" + "import os",
    "linear.weight",
)


def test_names_from_a_file_are_never_pasted_into_the_source(tmp_path):
    network = everything(2)
    given = [*HOSTILE, *CODE, *HOSTILE, *CODE]
    named = zip(network.operations, given, strict=False)
    strange = replace(
        network, operations=tuple(replace(o, name=name) for o, name in named) + network.operations[len(given) :]
    )
    text = export.source(strange)
    for piece in ("import os", "é", "\u2028", "%s", "{version}", "y" * 30):
        assert piece not in text
    written = assert_same(strange, tmp_path)
    assert all(name.isidentifier() and name.isascii() for name in written.state_dict())
    assert ruff(tmp_path) == ""


def test_a_file_with_other_constants_is_refused(tmp_path):
    export.write(one_operation("linear", 1, wild=False), tmp_path)
    file.save(one_operation("linear", 4, wild=False), tmp_path)
    with pytest.raises((KeyError, RuntimeError)):
        imported(tmp_path).load(tmp_path)


@pytest.mark.slow
def test_random_networks_are_the_same_bit_by_bit(tmp_path):
    r = random.Random(0)
    for seed in range(150):
        steps = [(r.choice(list(KINDS)), r.randrange(100)) for _ in range(r.randint(3, 12))]
        assert_same(grown(steps, seed), tmp_path / str(seed))
    assert ruff(tmp_path) == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*names(CONF / "model")} - {"nearest_neighbour"}))
def test_shipped_models_are_the_same_bit_by_bit(name, tmp_path):
    from test_capture_models import shipped

    assert_same(freeze(*shipped(name)), tmp_path)
    assert ruff(tmp_path) == ""
