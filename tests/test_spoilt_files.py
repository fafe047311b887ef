"""Files that were spoilt, or are somebody else's, are named in one line, and nothing of theirs is run."""

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

from lipcert import cli
from lipcert.api import freeze
from lipcert.configuration import check_trusted
from lipcert.parts import parts


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("trained") / "run"
    assert cli.run("train", [*TINY, f"output_dir={directory}"]) == 0
    return directory


@pytest.fixture
def run(trained) -> Path:
    """An unfinished run of one's own to spoil: trained, not recorded."""
    shutil.copytree(trained, "run")
    Path("run/summary.json").unlink()
    return Path("run")


def test_a_spoilt_batch_size_of_certification(run, capsys):
    assert "`batch_size` must be at least 1, got 0" in refused(capsys, "certify", f"run={run}", "batch_size=0")


def test_an_unfinished_run_is_not_compared(run, trained, capsys):
    assert "no finished summary.json in run" in refused(capsys, "compare", run, trained)


def spoil(name):
    def register(change):
        SPOILS[name] = change
        return change

    return register


SPOILS: dict = {}  # what happens to a checkpoint: name -> change(path)


@spoil("missing")
def _(path):
    path.unlink()


@spoil("cut short")
def _(path):
    path.write_bytes(path.read_bytes()[:2000])


@spoil("empty")
def _(path):
    path.write_bytes(b"")


@spoil("not a checkpoint at all")
def _(path):
    path.write_bytes(b"\x89PNG\r\n" * 100)


@spoil("somebody else's")
def _(path):
    torch.save({"state_dict": torch.nn.Linear(1, 1).state_dict()}, path)


@spoil("code")
def _(path):
    torch.save(torch.nn.Linear(1, 1), path)


@spoil("of another network")
def _(path):
    content = torch.load(path, weights_only=True)
    content["state_dict"] = {f"{key}.x": value for key, value in content["state_dict"].items()}
    torch.save(content, path)


@spoil("diverged")
def _(path):
    content = torch.load(path, weights_only=True)
    content["state_dict"] = {k: v * torch.nan if v.is_floating_point() else v for k, v in content["state_dict"].items()}
    torch.save(content, path)


@pytest.mark.parametrize("how", sorted(SPOILS.keys() - {"missing"}))
def test_a_spoilt_checkpoint_is_not_resumed(how, run, capsys):
    """And what reads the network alone doesn't look at it."""
    SPOILS[how](run / "checkpoints/last.ckpt")
    assert "checkpoint" in refused(capsys, "train", f"resume={run}")
    before = (run / "certificates.csv").read_bytes()
    assert lipcert(capsys, "certify", f"run={run}").status == 0
    assert (run / "certificates.csv").read_bytes() == before


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


NETWORKS = {  # what happens to a network: (what must be said, how(its folder))
    "missing": ("no network at run/network", shutil.rmtree),
    "empty": ("no network at run/network", lambda folder: [path.unlink() for path in folder.iterdir()]),
    "half written": ("no network at run/network", lambda folder: (folder / "network.json").unlink()),
    "without tensors": ("network.safetensors", lambda folder: (folder / "network.safetensors").unlink()),
    "cut short": ("network.safetensors", lambda folder: os.truncate(folder / "network.safetensors", 100)),
    "one bit": ("network.safetensors", lambda folder: flipped(folder / "network.safetensors")),
    "not JSON": ("network.json", lambda folder: (folder / "network.json").write_bytes(b"\xff" * 100)),
    "another": ("network.json", lambda folder: (folder / "network.json").write_text("{}")),
    "code": ("network.safetensors", lambda folder: torch.save(torch.nn.Linear(1, 1), folder / "network.safetensors")),
}


@pytest.mark.parametrize("how", NETWORKS)
@pytest.mark.parametrize("task", ["certify", "attack"])
def test_a_spoilt_network(how, task, run, capsys):
    says, spoil = NETWORKS[how]
    spoil(run / "network")
    assert says in refused(capsys, task, f"run={run}", leaves=(run,))


def test_a_network_of_other_images(run, capsys):
    freeze(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3)), (3, 4, 4)).save(run / "network")
    line = refused(capsys, "certify", f"run={run}")
    assert "takes images of (3, 4, 4) to 3 classes, but its data set has (1, 8, 8) and 10" in line


def test_a_checkpoint_of_another_run_is_not_resumed(run, capsys):
    path = run / "checkpoints/last.ckpt"
    content = torch.load(path, weights_only=True)
    content["config"]["seed"] = 17
    torch.save(content, path)
    assert "is of another run than its config.yaml: they differ in `seed`" in refused(capsys, "train", f"resume={run}")


FOREIGN = [
    "os.system",
    "builtins.print",
    "lipcert.cli.os.system",  # begins like ours, and leads elsewhere
    "lipcert.models.l2nnn.nn.functional.relu",
    "lipcert.tasks.fitting.subprocess.run",
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


@pytest.mark.parametrize("task", ["certify", "attack", "train"])
def test_a_config_that_names_foreign_code(task, run, capsys):
    """Of the data set; and hidden from a look at the targets, in an interpolation."""
    address = f"{'resume' if task == 'train' else 'run'}={run}"
    config = yaml.safe_load((run / "config.yaml").read_text())
    hidden = "${oc.create:{_target_: os.mkdir, path: pwned}}"
    for key, value in {"_target_": "mypkg.data", "augment": hidden}.items():
        spoilt = config | {"dataset": config["dataset"] | {key: value}}
        (run / "config.yaml").write_text(yaml.safe_dump(spoilt))
        assert "config.yaml" in (line := refused(capsys, task, address)) and "say trust=true" in line


def test_a_checkpoint_that_names_foreign_code(run, capsys):
    path = run / "checkpoints/last.ckpt"
    content = torch.load(path, weights_only=True)
    content["config"]["model"]["_target_"] = "mypkg.Mine"
    torch.save(content, path)
    line = refused(capsys, "train", f"resume={run}")
    assert "last.ckpt names `_target_: mypkg.Mine`" in line and "say trust=true" in line
    assert "they differ in `model`" in refused(capsys, "train", f"resume={run}", "trust=true")


def test_a_spoilt_config_is_no_run(run, capsys):
    for text in (b"", b":::\n - [", b"\xff\xfe\x00", b"model: {}"):
        (run / "config.yaml").write_bytes(text)
        assert "`run`: run is not a run's directory" in refused(capsys, "certify", f"run={run}")
        assert "`resume`: run is not a run's directory" in refused(capsys, "train", f"resume={run}")


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
