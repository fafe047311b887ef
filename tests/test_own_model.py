"""A model of the user's own, outside of the package: what is wrong with it, and when its code is trusted."""

import sys
from pathlib import Path

import pytest
from commandline import TINY, lipcert, refused


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


MINE = """
import torch
from torch import nn

class Mine(nn.Module):
    norm = "l2"

    def __init__(self, *, input_shape, num_classes, width=16, fails=""):
        super().__init__()
        if fails == "to build":
            raise RuntimeError("no such width")
        if fails == "by a defect":
            raise AttributeError("a defect")
        side = input_shape[1] * (100 if fails == "on the images" else 1)
        answers = 3 if fails == "to answer" else num_classes
        width_in = input_shape[0] * side * input_shape[2]
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(width_in, width), nn.ReLU(), nn.Linear(width, answers))

    def forward(self, x):
        return self.layers(x)

    def bound(self, signal, walk, name):
        return walk(self.layers, signal, "layers")
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """An architecture of the user's own, outside of the package: a module, and a yaml in a directory of its own."""
    Path("mypkg.py").write_text(MINE)
    Path("myconf/model").mkdir(parents=True)
    Path("myconf/model/mine.yaml").write_text("_target_: mypkg.Mine\nwidth: 16\nfails: ''\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield ("--config-dir", "myconf", "model=mine", "certificate=margin")
    sys.modules.pop("mypkg", None)


@pytest.mark.parametrize(
    ("fails", "line"),
    [
        ("to build", "mypkg.Mine can't be built: no such width"),
        ("on the images", "`model`: mypkg.Mine fails on images of shape (1, 8, 8)"),
        ("to answer", "`model`: mypkg.Mine must give logits of shape (2, 10) for 2 images, got (2, 3)"),
    ],
)
def test_a_model_that_does_not_fit_the_images(fails, line, mine, capsys):
    assert line in refused(capsys, "train", *TINY, *mine, f"model.fails='{fails}'")


def test_a_model_that_can_not_be_certified_is_not_trained_either(mine, capsys):
    assert "`certificate=last_layer` needs" in refused(capsys, "train", *TINY, *mine, "certificate=last_layer")


def test_a_defect_shows_its_traceback(mine, capsys):
    """The control: not every error is the user's."""
    told = lipcert(capsys, "train", *TINY, *mine, "model.fails='by a defect'")
    assert told.status == 1 and "Traceback" in told.err and "AttributeError: a defect" in told.err


def test_code_of_ones_own_needs_trust(mine, capsys):
    """`lipcert train` takes what its own command line names; a checkpoint that names it has to be trusted."""
    assert lipcert(capsys, "train", *TINY, *mine, "output_dir=run").status == 0
    assert "say trust=true" in refused(capsys, "certify", "run=run")
    assert lipcert(capsys, "certify", "run=run", "trust=true").status == 0
    Path("run/summary.json").unlink()
    assert "say trust=true" in refused(capsys, "train", "resume=run")
    assert lipcert(capsys, "train", "resume=run", "trust=true").status == 0
