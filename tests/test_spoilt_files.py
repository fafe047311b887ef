"""Files that were spoilt are named in one line. What somebody else's files may do is in test_foreign_runs.py."""

import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from commandline import TINY, lipcert, refused
from PIL import Image

from lipcert.api import freeze
from lipcert.cli.main import run as command_line
from lipcert.commands.compare import show_table
from lipcert.configuration import check_trusted
from lipcert.parts import parts
from lipcert.runs.directory import RunDirectory


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("trained") / "run"
    assert command_line("train", [*TINY, f"output_dir={directory}"]) == 0
    return directory


@pytest.fixture
def run(trained) -> Path:
    """An unfinished run of one's own to spoil: trained, not recorded."""
    shutil.copytree(trained, "run")
    RunDirectory("run").forget("summary.json")
    return Path("run")


def test_a_spoilt_batch_size_of_certification(run, capsys):
    assert "`batch_size` must be at least 1, got 0" in refused(capsys, "certify", f"run={run}", "batch_size=0")


def test_an_unfinished_run_is_not_compared(run, trained, capsys):
    assert "no finished summary.json in run" in refused(capsys, "compare", run)
    told = lipcert(capsys, "compare", ".", trained, "output_dir=compared")
    assert told.status == 0 and told.out.count("clean (%)") == 1
    assert told.err.startswith("lipcert: left out: no finished summary.json in run: `lipcert train resume=run` goes on")
    assert told.err.count("\n") == 1
    capsys.readouterr()
    show_table([run])  # what a sweep of nothing but failures ends with
    assert capsys.readouterr() == ("", "")
    show_table([trained])
    assert "clean (%)" in capsys.readouterr().out


def rewritten(change):
    """A checkpoint with other content, known to the manifest."""

    def spoil(path):
        torch.save(change(torch.load(path, weights_only=True)), path)
        RunDirectory("run").register("checkpoints/last.ckpt")

    return spoil


def with_weights(change):
    return rewritten(lambda content: content | {"state_dict": dict(map(change, content["state_dict"].items()))})


SPOILS = {  # what happens to a checkpoint: how(its path)
    "missing": Path.unlink,
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:2000]),
    "empty": lambda path: path.write_bytes(b""),
    "somebody else's": rewritten(lambda content: {"state_dict": torch.nn.Linear(1, 1).state_dict()}),
    "code": rewritten(lambda content: torch.nn.Linear(1, 1)),
    "of another network": with_weights(lambda item: (f"{item[0]}.x", item[1])),
    "diverged": with_weights(lambda item: (item[0], item[1] * torch.nan if item[1].is_floating_point() else item[1])),
}


QUICK = ("code",)


@pytest.mark.parametrize("how", [how if how in QUICK else pytest.param(how, marks=pytest.mark.slow) for how in SPOILS])
def test_a_spoilt_checkpoint_is_not_resumed(how, run, capsys):
    """And what reads the network alone does not look at it."""
    SPOILS[how](run / "checkpoints/last.ckpt")
    assert "checkpoint" in refused(capsys, "train", f"resume={run}")
    before = (run / "certificates.csv").read_bytes()
    assert lipcert(capsys, "certify", f"run={run}").status == 0
    assert (run / "certificates.csv").read_bytes() == before


NETWORKS = {  # what happens to a network: (what must be said, how(its folder))
    "missing": ("network.json is gone", shutil.rmtree),
    "half written": ("network.json is gone", lambda folder: (folder / "network.json").unlink()),
    "without tensors": ("network.safetensors is gone", lambda folder: (folder / "network.safetensors").unlink()),
    "cut short": ("network.safetensors", lambda folder: os.truncate(folder / "network.safetensors", 100)),
    "another": ("network.json", lambda folder: (folder / "network.json").write_text("{}")),
}


@pytest.mark.parametrize("how", NETWORKS)
@pytest.mark.parametrize("command", ["certify", "attack"])
def test_a_spoilt_network(how, command, run, capsys):
    says, spoil = NETWORKS[how]
    spoil(run / "network")
    assert says in refused(capsys, command, f"run={run}", leaves=(run,))


def test_a_network_of_other_images(run, capsys):
    freeze(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3)), (3, 4, 4)).save(run / "network")
    RunDirectory(run).register("network/network.json", "network/network.safetensors")
    line = refused(capsys, "certify", f"run={run}")
    assert "takes images of (3, 4, 4) to 3 classes, but its data set has (1, 8, 8) and 10" in line


FOREIGN = [
    "os.system",
    "builtins.print",
    "lipcert.cli.main.os.system",  # begins like ours, and leads elsewhere
    "lipcert.models.l2nnn.nn.functional.relu",
    "lipcert.training.ranks.subprocess.run",
    "lipcert.files.write_atomic",  # ours, but not a part: it writes where it is told to
    "lipcert.datasets.download.provide",  # and this sends requests
    "torch.nn.modules.module.warnings.warn",
    "torch.optim.lr_scheduler.LambdaLR",
    "torch.nn.init.ones_",
    "torch.load",
]


@pytest.mark.parametrize("target", FOREIGN)
def test_a_target_from_a_file_must_be_a_part_of_ours(target):
    with pytest.raises(ValueError, match="a file names `_target_: .* say trust=true"):
        check_trusted({"dataset": {"_target_": target}}, False, "a file")


def test_our_own_targets_are_ours():
    conf = Path(__import__("lipcert.conf").conf.__path__[0])
    loaded = [yaml.safe_load(path.read_text()) or {} for path in conf.rglob("*.yaml")]
    targets = {node["_target_"] for node in loaded if "_target_" in node}
    assert len(targets) > 20 and targets <= parts() and "torch.optim.AdamW" in parts()


def test_code_that_is_trusted_may_be_named(run, capsys):
    """trust=true is what stands between a configuration and a module of one's own."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["dataset"]["_target_"] = "mypackage.data"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    RunDirectory(run).register("config.yaml")
    assert "say trust=true" in refused(capsys, "certify", f"run={run}")
    assert "mypackage.data can't be imported" in refused(capsys, "certify", f"run={run}", "trust=true")


def test_a_spoilt_config_is_no_run(run, capsys):
    for text in (b"", b":::\n - [", b"\xff\xfe\x00", b"model: {}"):
        (run / "config.yaml").write_bytes(text)
        RunDirectory(run).register("config.yaml")
        assert "run/config.yaml" in refused(capsys, "certify", f"run={run}")
        assert "run/config.yaml" in refused(capsys, "train", f"resume={run}")


def test_a_corrupt_idx_file(capsys):
    raw = Path("MNIST/raw")
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 0x803, 20, 28, 28) + bytes(100))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, 20) + bytes(20))
    line = refused(capsys, "train", "dataset=mnist", "data_dir=.")
    assert "MNIST/raw/train-images-idx3-ubyte is damaged" in line


def arrays(**changes: np.ndarray) -> dict[str, np.ndarray]:
    x, y = np.zeros((20, 8, 8), np.uint8), np.arange(20) % 2
    return {"x_train": x, "y_train": y, "x_test": x, "y_test": y, **changes}


NPZ = [
    ({"x_train": np.full((20, 8, 8), np.nan)}, "own.npz: x_train has NaN or infinite values"),
    ({"x_test": np.full((20, 8, 8), 2.0)}, "own.npz: x_test has floats from 2 to 2"),
    ({"x_train": np.zeros((0, 8, 8), np.uint8), "y_train": np.zeros(0, int)}, "own.npz: x_train is empty"),
    ({"y_train": np.full(20, -1)}, "the training set of npz has labels from -1"),
    ({"y_train": np.zeros(19, int)}, "there are 20 images but 19 labels"),
    ({"y_train": np.zeros(20, int), "y_test": np.zeros(20, int)}, "npz has 1 class, and a classifier needs 2"),
    ({"y_train": np.zeros(20, int)}, "y_train has no label 1, but labels reach 1"),
]


@pytest.mark.parametrize(("changes", "line"), NPZ)
def test_arrays_that_can_not_be_learnt_from(changes, line, capsys):
    np.savez("own.npz", **arrays(**changes))
    assert line in refused(capsys, "train", "dataset=npz", "dataset.path=own.npz")


def test_labels_out_of_range(capsys):
    np.savez("own.npz", **arrays(y_train=np.arange(20) % 3))
    line = refused(capsys, "train", "dataset=npz", "dataset.path=own.npz", "dataset.num_classes=2")
    assert "labels from 0 to 2, but 2 classes" in line


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64])
def test_a_seed_that_is_none(seed, capsys):
    assert "`dataset.seed`" in refused(capsys, "train", f"dataset.seed={seed}")


def test_a_corrupt_archive_and_a_corrupt_image(capsys):
    Path("own.npz").write_bytes(b"PK\x03\x04 no archive")
    assert "own.npz is not a readable .npz archive" in refused(capsys, "train", "dataset=npz", "dataset.path=own.npz")
    for part in ("train", "test"):
        for label in ("a", "b"):
            folder = Path("images", part, label)
            folder.mkdir(parents=True)
            for i in range(4):
                Image.fromarray(np.full((8, 8), 16 * i, np.uint8)).save(folder / f"{i}.png")
    broken = Path("images/train/b/2.png")
    broken.write_bytes(broken.read_bytes()[:50])
    line = refused(capsys, "train", "dataset=image_folder", "dataset.path=images")
    assert "images/train/b/2.png" in line
