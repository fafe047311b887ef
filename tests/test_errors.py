"""What a user can get wrong is told in one line on stderr, with the way out, exit status 2, and touches nothing."""

import os
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from commandline import TINY, elsewhere, lipcert, refused
from PIL import Image

from lipcert import cli, contracts, training
from lipcert.tasks.errors import told
from lipcert.tasks.settings import is_ours


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


# What is written on the command line: (overrides, what the line must say).
WRITTEN = [
    ("model=l2nn", "`model=l2nn`: there is no such option; did you mean `l2nnn`? (choices: convnet, l2nnn, "),
    ("dataset=mnst", "did you mean `mnist`? (choices: cifar10, cifar100, digits"),
    ("experiment=l2nnn/table1_model33", "`experiment=l2nnn/table1_model33`: there is no such option; did you mean"),
    ("attack=null", "`attack=null`: a group needs one of its options; did you mean `none`? (choices: "),
    ("sed=1", "`sed` is not a key of `lipcert train`; did you mean `seed`?"),
    ("+sed=1", "`sed` is not a key of `lipcert train`; did you mean `seed`?"),
    ("modle=l2nnn", "`modle` is not a key of `lipcert train`; did you mean `model`?"),
    ("schedule.epoch=1", "`schedule.epoch` is not a key of `lipcert train`; did you mean `schedule.epochs`?"),
    ("loss=l2nnn +loss.omgea=1", "`loss.omgea` is not a key of L2NNNLoss; did you mean `omega`?"),
    ("+dataset.vall_size=1", "`dataset.vall_size` is not a key of this data set: did you mean `val_size`?"),
    ("+optimizer.rl=1", "`optimizer.rl` is not a key of "),
    ("+trainer.device=1", "`trainer.device` is not a key of conf/trainer; did you mean `devices`?"),
    ("~schedule.lr.drives", "`schedule.lr.drives` must be given: Cosine needs it"),
    ("seed=abc", "`seed` must be int, got 'abc'"),
    ("seed=1.5", "`seed` must be int, got 1.5"),
    ("seed=1,2", "`seed=1,2` has several values: add -m"),
    ("seed=[1", "`seed=[1` can't be read"),
    ("seed=???", "`seed` must be given"),
    ("data_dir=${nowhere}", "`data_dir` has no value: Interpolation key 'nowhere' not found"),
    ("mnist", "`mnist` is not of the form key=value"),
    ("--config-dri=x", "`--config-dri=x` is not a flag; did you mean `--config-dir`?"),
    ("--cfg jobs", "`--cfg jobs`: there is no such choice; did you mean `job`?"),
    ("--config-dir", "`--config-dir` needs a value"),
    ("--config-dir nowhere", "nowhere' not found"),
    ("optimizer=adam optimizer.lr=abc", "`optimizer.lr` must be float, got 'abc'"),
    ("optimizer=adam optimizer.lr=null", "`optimizer.lr` must be float, got None"),
    ("optimizer=adam optimizer.betas=[0.9]", "`optimizer.betas` must be tuple"),
    ("schedule.epochs=ten", "`schedule.epochs` must be int, got 'ten'"),
    ("+schedule.foo=1", "`schedule.foo` must be a node with a `_target_` or null, got 1"),
    ("model=convnet model.channels=5", "`model.channels` must be a list of int, got 5"),
    ("model=convnet model.channels=[a]", "`model.channels` must be a list of int, got ['a']"),
    ("model._target_=lipcert.models.Nope", "`model._target_`: lipcert.models.Nope can't be imported"),
    ("~model._target_", "`model._target_` must be given"),
    ("+seed=1", "An item is already at 'seed'"),
    ("~foo", "'foo' does not exist"),
    ("loss=cross_entropy loss.adversary=pgd", "`loss.adversary` must be a node with a `_target_` or null, got 'pgd'"),
    ("dataset.val_size=abc", "`dataset.val_size` must be a count from 0 or a fraction below 1, got 'abc'"),
    ("dataset.subset=x", "`dataset.subset` must be a positive integer or null, got 'x'"),
    ("eps=[0.1,-1]", "`eps` must be at least 0, got [0.1, -1]"),
    ("eps=[nan]", "`eps` must be at least 0, got [nan]"),
    ("eps=-1", "`eps` must be a list of float, got -1"),
    ("attack=pgd_l2 attack.eps=[-1]", "`attack.eps`"),
    ("model=convnet model.channels=[8,8,8,8,8]", "does not survive"),
    ("optimizer=adam optimizer.lr=-1", "`optimizer`: torch.optim.Adam refuses this (Invalid learning rate: -1)"),
    ("optimizer=sgd optimizer.momentum=-1", "`optimizer`: torch.optim.SGD refuses this (Invalid momentum value: -1)"),
    ("schedule.lr.drives=optimizer.foo", "`schedule.lr` drives optimizer.foo, which this one has not"),
    ("schedule.lr.drives=model.foo", "`schedule.lr` drives model.foo, which this model has not"),
    ("schedule.epochs=-1", "`schedule.epochs` must be at least 0, got -1"),
    ("schedule.early_stopping=3 dataset.val_size=0", "`schedule.early_stopping` needs a validation set"),
    ("trainer.devices=1000", "`trainer.devices`=1000 is more than this machine has"),
    ("trainer.devices=0", "must be at least 1, got 0"),
    ("trainer.accelerator=tpu", "`trainer.accelerator` must be one of auto, cpu, gpu, got 'tpu'"),
    ("trainer.precision=16", "`trainer.precision` must be one of 32-true, 64-true, 16-mixed, bf16-mixed, got 16"),
    ("trainer.num_nodes=2", "`trainer.num_nodes`=2 needs the environment variables MASTER_ADDR"),
    ("trainer.accelerator=cpu trainer.precision=16-mixed", "`trainer.precision`=16-mixed needs a GPU"),
    ("output_dir=file/below", "`output_dir`: file/below cannot be written (Not a directory)"),
    ("output_dir=file", "`output_dir`: file is a file"),
    ("output_dir=there", "`output_dir`: there already exists; give another, or go on by resume=there"),
    ("-m seed=1,2 output_dir=there", "`output_dir`: there already exists; a sweep needs a directory of its own"),
    ("dataset=npz", "`dataset.path` must name an .npz file"),
    ("dataset=npz dataset.path=nowhere.npz", "nowhere.npz is not a file: set `dataset.path=`"),
    ("dataset=image_folder dataset.path=nowhere", "nowhere/train is not a folder"),
]


@pytest.mark.parametrize(("written", "line"), WRITTEN, ids=[w[0] for w in WRITTEN])
def test_what_is_written_wrongly(written, line, capsys, monkeypatch):
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    Path("file").write_text("")
    Path("there").mkdir()
    Path("there/something").write_text("")
    assert line in refused(capsys, "train", "attack=none", *written.split())


@pytest.mark.skipif(os.cpu_count() == 1, reason="one core: one rank")
def test_a_batch_is_shared_evenly(capsys):
    line = refused(capsys, "train", "trainer=ddp", "trainer.accelerator=cpu", "schedule.batch_size=129")
    assert "`schedule.batch_size` must be a multiple of the 2 ranks that share it, got 129" in line


def test_what_is_written_wrongly_for_other_tasks(capsys):
    assert refused(capsys, "trian").startswith("`trian` is not a task; did you mean `train`?")
    assert refused(capsys, "certify").startswith("`run` must be given")
    assert refused(capsys, "certify", "outputs/1").endswith("did you mean run=outputs/1?")
    assert "`run`: missing is not a run's directory" in refused(capsys, "certify", "run=missing")
    assert "`eps` is not a key of `lipcert certify`" in refused(capsys, "certify", "run=missing", "eps=[1]")
    assert "`device`=foo can't be used here" in refused(capsys, "certify", "run=missing", "device=foo")
    assert "`run`: missing is not a run's directory" in refused(capsys, "attack", "run=missing", "attack=fgsm")
    assert "needs runs" in refused(capsys, "compare")
    assert "`missing` is not a directory" in refused(capsys, "compare", "missing")
    assert "`it's` is not a directory" in refused(capsys, "compare", "it's")
    assert "`.` holds no run" in refused(capsys, "compare", ".")


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


@pytest.mark.parametrize("how", SPOILS)
@pytest.mark.parametrize("task", ["certify", "attack"])
def test_a_spoilt_checkpoint(how, task, run, capsys):
    SPOILS[how](run / "checkpoints/last.ckpt")
    line = refused(capsys, task, f"run={run}")
    assert "checkpoint" in line


@pytest.mark.parametrize("how", ["cut short", "empty", "not a checkpoint at all", "somebody else's", "code"])
def test_a_spoilt_checkpoint_is_not_resumed(how, run, capsys):
    SPOILS[how](run / "checkpoints/last.ckpt")
    assert "run/checkpoints/last.ckpt" in refused(capsys, "train", f"resume={run}")


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
    "lipcert.reporting.files.write_atomic",  # ours, but not a part: it writes where it is told to
    "torch.nn.modules.module.warnings.warn",
    "torch.optim.lr_scheduler.LambdaLR",
    "torch.nn.init.ones_",
    "torch.load",
]


@pytest.mark.parametrize("target", FOREIGN)
def test_a_target_from_a_file_must_be_a_part_of_ours(target):
    assert not is_ours(target)


def test_our_own_targets_are_ours():
    conf = Path(__import__("lipcert.conf").conf.__path__[0])
    loaded = [yaml.safe_load(path.read_text()) for path in conf.rglob("*.yaml")]
    targets = {node["_target_"] for node in loaded if "_target_" in node}
    assert targets and all(map(is_ours, targets))
    assert is_ours("torch.optim.AdamW") and is_ours("torch.nn.Linear")


@pytest.mark.parametrize("task", ["certify", "attack", "train"])
def test_a_file_that_names_foreign_code(task, run, capsys):
    """In config.yaml or in the checkpoint; and hidden from a look at the targets, in an interpolation."""
    address = f"{'resume' if task == 'train' else 'run'}={run}"
    path = run / "checkpoints/last.ckpt"
    content = torch.load(path, weights_only=True)
    content["config"]["model"]["_target_"] = "mypkg.Mine"
    torch.save(content, path)
    line = refused(capsys, task, address)
    assert "last.ckpt names `_target_: mypkg.Mine`" in line and "say trust=true" in line
    line = refused(capsys, task, address, "trust=true")
    assert ("mypkg.Mine can't be imported" in line) if task != "train" else "they differ in `model`" in line

    config = yaml.safe_load((run / "config.yaml").read_text())
    hidden = "${oc.create:{_target_: os.mkdir, path: pwned}}"
    for key, value in {"_target_": "mypkg.data", "augment": hidden}.items():
        spoilt = config | {"dataset": config["dataset"] | {key: value}}
        (run / "config.yaml").write_text(yaml.safe_dump(spoilt))
        assert "config.yaml" in (line := refused(capsys, task, address)) and "say trust=true" in line


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
    assert "MNIST/raw/train-images-idx3-ubyte is corrupt" in line


def arrays(**changes: np.ndarray) -> dict[str, np.ndarray]:
    x, y = np.zeros((20, 8, 8), np.uint8), np.arange(20) % 2
    return {"x_train": x, "y_train": y, "x_test": x, "y_test": y, **changes}


NPZ = [
    ({"x_train": np.full((20, 8, 8), np.nan)}, "own.npz: x_train has NaN or infinite values"),
    ({"x_test": np.full((20, 8, 8), 2.0)}, "own.npz: x_test has floats from 2 to 2"),
    ({"x_train": np.zeros((0, 8, 8), np.uint8), "y_train": np.zeros(0, int)}, "own.npz: x_train is empty"),
    ({"y_train": np.full(20, -1)}, "npz: the training set has labels from -1"),
    ({"y_train": np.zeros(19, int)}, "there are 20 images but 19 labels"),
]


@pytest.mark.parametrize(("changes", "line"), NPZ)
def test_arrays_that_can_not_be_learnt_from(changes, line, capsys):
    np.savez("own.npz", **arrays(**changes))
    assert line in refused(capsys, "train", "dataset=npz", "dataset.path=own.npz")


def test_labels_out_of_range(capsys):
    np.savez("own.npz", **arrays())
    line = refused(capsys, "train", "dataset=npz", "dataset.path=own.npz", "dataset.num_classes=1")
    assert "labels from 0 to 1, but 1 classes" in line


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
    monkeypatch.delitem(sys.modules, "mypkg", raising=False)
    return ("--config-dir", "myconf", "model=mine", "certificate=margin")


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


BOOM = "+schedule.boom={_target_: lipcert.schedules.Milestones, drives: optimizer.lr, epochs_at: [1], factor: 1.0e+30}"


def test_a_diverging_loss_stops_training_and_keeps_the_last_good_checkpoint(capsys):
    model = ("model=convnet", "model.channels=[4,4]", "model.hidden=16", "optimizer=sgd")
    arguments = (*TINY, *model, "schedule.epochs=3", "schedule.batch_size=50", BOOM)
    told = lipcert(capsys, "train", *arguments, "output_dir=run")
    assert told.status == 2 and told.err.startswith("lipcert: the loss is ") and told.err.count("\n") == 1
    checkpoint = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert f" at step {checkpoint['global_step'] + 1} " in told.err
    assert checkpoint["epochs_done"] == 1
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())


def test_weights_that_the_last_step_ruins_are_not_saved(capsys, monkeypatch):
    """The loss of that step is still finite: only a look at the weights tells."""
    step, steps = training.Training.optimizer_step, []

    def ruin(module, *arguments, **keywords):
        step(module, *arguments, **keywords)
        steps.append(1)
        if len(steps) == 4:
            next(module.parameters()).data.fill_(torch.nan)

    monkeypatch.setattr(training.Training, "optimizer_step", ruin)
    run = (*TINY, "schedule.epochs=2", "schedule.batch_size=50", "dataset.val_size=0", "output_dir=run")
    told = lipcert(capsys, "train", *run)
    assert told.status == 2 and "the weights are no longer finite after step 4" in told.err
    assert torch.load("run/checkpoints/last.ckpt", weights_only=True)["epochs_done"] == 1


def test_a_broken_certificate_has_a_status_of_its_own():
    assert told(contracts.CertificateBroken("image 3"), "attack") == ("image 3", 3)


def test_torch_and_torchvision_of_different_places():
    """What a CPU-only torch beside the index's torchvision dies of while lightning is imported."""
    try:
        try:
            raise RuntimeError("operator torchvision::nms does not exist")
        except RuntimeError as error:
            raise ImportError("lightning") from error
    except ImportError as error:
        line, status = told(error, "train")
    assert status == 2 and "pip install --force-reinstall torch torchvision" in line


def test_a_full_disk_is_no_defect():
    assert told(OSError(28, "No space left on device", "run/metrics.csv"), "train") == (
        "run/metrics.csv: No space left on device",
        2,
    )


def test_a_sweep_whose_jobs_are_all_refused_leaves_nothing(capsys):
    told = lipcert(capsys, "train", "-m", "seed=a,b", *TINY, "output_dir=sweep")
    assert told.status == 2
    assert told.err.splitlines() == [f"lipcert: job {i}: `seed` must be int, got '{v}'" for i, v in enumerate("ab")]
    assert not Path("sweep").exists()


def test_a_sweep_goes_on_after_a_job_that_fails(capsys):
    told = lipcert(capsys, "train", "-m", "dataset.subset=100,x,90", "schedule.epochs=1", "attack=none", "output_dir=s")
    lines = [line for line in told.err.splitlines() if line.startswith("lipcert:")]  # others are bars
    assert told.status == 2 and len(lines) == 1 and lines[0].startswith("lipcert: job 1: `dataset.subset`")
    assert sorted(path.name for path in Path("s").iterdir()) == ["0", "2", "multirun.yaml"]
    assert Path("s/0/summary.json").exists() and Path("s/2/summary.json").exists()


@pytest.mark.slow
def test_in_a_process_of_its_own():
    done = elsewhere("train", "optimizer=adam", "optimizer.lr=-1")
    assert done.returncode == 2 and not done.stdout
    assert done.stderr == "lipcert: `optimizer`: torch.optim.Adam refuses this (Invalid learning rate: -1)\n"
    assert not list(Path().iterdir())
