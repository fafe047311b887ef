"""The reader in examples/, which needs numpy alone, computes the frozen network's logits from its files."""

import ast
import math
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from configurations import CONF, names
from frozen_builder import Builder
from frozen_cases import KINDS, one_operation

from lipcert.frozen import file
from lipcert.frozen.freeze import freeze
from lipcert.frozen.network import Network

PATH = Path(__file__).parents[1] / "examples" / "read_network.py"
PARAMETERS = {"clamp": (-0.5, math.inf), "leaky_relu": (-0.5,), "softplus": (20.0,), "elu": (1.7, 1.05, 0.5)}
REFUSED = {"transposed_convolution", "adaptive_max_pool", "recurrent"}  # and some functions


@pytest.fixture(scope="module")
def reader() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(PATH)))


def assert_same(reader: SimpleNamespace, network: Network, folder: Path) -> None:
    file.save(network, folder)
    images = torch.rand((3, *network.shape), dtype=torch.float64)
    due, found = file.load(folder)(images).numpy(), reader.logits(reader.read(folder), images.numpy())
    assert found.dtype == np.float64 and found.shape == due.shape
    assert np.allclose(found, due, rtol=1e-10, atol=1e-10 * np.abs(due[np.isfinite(due)]).max(initial=0))


def test_it_has_at_most_150_lines_and_needs_numpy_alone():
    text = PATH.read_text()
    assert len(text.splitlines()) <= 150
    imports = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Import | ast.ImportFrom)]
    modules = {n.module if isinstance(n, ast.ImportFrom) else n.names[0].name for n in imports}
    assert modules - set(sys.stdlib_module_names) == {"numpy"}


def test_logits_are_those_of_the_frozen_network(reader, tmp_path):
    """Of each kind and function, side by side in one network."""
    for seed in range(3):
        b = Builder(seed, (4, 4, 4))
        outputs = [b.add("pointwise", 0, function=f, parameters=PARAMETERS.get(f, ())) for f in reader.FUNCTIONS]
        outputs += [drawn(b, kind) for kind in KINDS if kind not in {*REFUSED, "pointwise"}]
        assert_same(reader, b.network(b.add("concatenate", *map(b.as_vector, outputs), axis=0)), tmp_path)


def drawn(b: Builder, kind: str) -> int:
    """An operation on the image, the first draw that fits."""
    while True:
        try:
            return KINDS[kind](b, 0)
        except ValueError:
            continue


def test_what_it_does_not_know_is_refused_by_name(reader, tmp_path):
    assert {kind for kind in KINDS if kind not in reader.KINDS} == REFUSED
    file.save(one_operation("recurrent", 1, wild=False), tmp_path)
    with pytest.raises(ValueError, match="'recurrent'"):
        network = reader.read(tmp_path)
        reader.logits(network, np.zeros((1, *network["shape"])))


def test_every_type_that_constants_are_stored_in(reader, tmp_path):
    """float16, bfloat16, float32 and float64, each for numbers that it holds whole; a changed file is refused."""
    b = Builder(0, (4,))
    for number in (1.5, 2.0**100, 1 + 2.0**-20, 1 + 2.0**-50):
        b.add("affine", len(b.operations), scale=torch.tensor([number] * 4, dtype=torch.float64), shift=None)
    assert_same(reader, b.network(), tmp_path)
    content = (tmp_path / "network.safetensors").read_bytes()
    assert all(f'"{name}"'.encode() in content for name in ("F16", "BF16", "F32", "F64"))
    (tmp_path / "network.safetensors").write_bytes(content[:-1] + b"?")
    with pytest.raises(ValueError, match="not the file"):
        reader.read(tmp_path)


@pytest.mark.parametrize("name", ["images.npy", "images.npz"])
def test_the_command_prints_logits(name, tmp_path, monkeypatch, capsys):
    """Of images as numbers, and of their bytes in an archive."""
    network = one_operation("linear", 1, wild=False)
    file.save(network, tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (20, *network.shape), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images / 255)
    np.savez(tmp_path / "images.npz", images=images, labels=np.zeros(20))
    monkeypatch.setattr(sys, "argv", [str(PATH), str(tmp_path), str(tmp_path / name)])
    runpy.run_path(str(PATH), run_name="__main__")
    due = file.load(tmp_path)(torch.from_numpy(images).double() / 255).numpy()
    assert np.allclose(np.loadtxt(capsys.readouterr().out.splitlines()), due, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*names(CONF / "model")} - {"nearest_neighbour", "l2nnn_recurrent"}))
def test_shipped_models(reader, name, tmp_path):
    from test_capture_models import shipped, trained

    model, sides = shipped(name)
    assert_same(reader, freeze(trained(model, sides), sides), tmp_path)
