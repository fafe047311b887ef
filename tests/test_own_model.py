"""A model of the user's own, outside of the package: what is wrong with it, and what of its code is needed when."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
import yaml
from commandline import TINY, lipcert, refused

from lipcert import api
from lipcert.runs.directory import RunDirectory


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
        strange = nn.LayerNorm(width) if fails == "to be certified" else nn.ReLU()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(width_in, width), strange, nn.Linear(width, answers))

    def forward(self, x):
        return self.layers(x)
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """An architecture of the user's own, outside of the package: a module, and a yaml in a directory of its own."""
    Path("mypkg.py").write_text(MINE)
    Path("myconf/model").mkdir(parents=True)
    Path("myconf/model/mine.yaml").write_text("_target_: mypkg.Mine\nwidth: 16\nfails: ''\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield ("--config-dir", "myconf", "model=mine")
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
    """The layer is named, why, and the way out."""
    line = refused(capsys, "train", *TINY, *mine, "model.fails='to be certified'")
    assert line.startswith("`layers.2`: `layer_norm` can't be certified")
    assert "layer normalisation divides by" in line and "or use batch normalisation" in line


def test_a_defect_shows_its_traceback(mine, capsys):
    """The control: not every error is the user's."""
    told = lipcert(capsys, "train", *TINY, *mine, "model.fails='by a defect'")
    assert told.status == 1 and "Traceback" in told.err and "AttributeError: a defect" in told.err


@pytest.mark.slow
def test_code_of_ones_own_is_needed_for_training_alone(mine, capsys):
    """A run whose code is gone is certified and attacked as it was, without being trusted; its training needs both."""
    assert lipcert(capsys, "train", *TINY, *mine, "output_dir=run").status == 0
    before = Path("run/certificates.csv").read_bytes()
    Path("mypkg.py").unlink()
    sys.modules.pop("mypkg")
    assert lipcert(capsys, "certify", "run=run").status == 0
    assert Path("run/certificates.csv").read_bytes() == before
    told = lipcert(capsys, "attack", "run=run", "attack=pgd_l2", "attack.images=10", "attack.steps=2")
    assert told.status == 0, told.err
    assert api.load("run").certify(torch.zeros(2, 1, 8, 8)).radius.shape == (2,)
    assert "mypkg" not in sys.modules
    RunDirectory("run").forget("summary.json")
    assert "say trust=true" in refused(capsys, "train", "resume=run")
    assert "mypkg.Mine can't be imported" in refused(capsys, "train", "resume=run", "trust=true")
    Path("mypkg.py").write_text(MINE)
    importlib.invalidate_caches()
    assert lipcert(capsys, "train", "resume=run", "trust=true").status == 0
    assert Path("run/certificates.csv").read_bytes() == before


@pytest.mark.parametrize("part", [pytest.param(part, marks=pytest.mark.slow) for part in ("certificate", "dataset")])
def test_other_code_of_ones_own_needs_trust(part, capsys):
    """What certifying a run again executes: its certificate, and its data set."""
    assert lipcert(capsys, "train", *TINY, "output_dir=run").status == 0
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    config[part] = {"_target_": "test_own_model.marked"}
    Path("run/config.yaml").write_text(yaml.safe_dump(config))
    assert "run/config.yaml is not what was written" in refused(capsys, "certify", "run=run")
    RunDirectory("run").register("config.yaml")  # as whoever made the run can
    for command in ("certify", "attack"):
        assert "names `_target_: test_own_model.marked`" in refused(capsys, command, "run=run")
    assert not Path("marked").exists()
    lipcert(capsys, "certify", "run=run", "trust=true")
    assert Path("marked").exists()


def marked():
    Path("marked").write_text("")
