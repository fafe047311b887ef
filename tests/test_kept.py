"""The accuracy in training, epoch by epoch, and the weights of the best epoch."""

import csv
import shutil
from pathlib import Path

import pytest
import torch
from commandline import lipcert, refused
from configurations import composed, shape
from torch import nn

from lipcert.configuration import build
from lipcert.evaluation.freeze import rebuild
from lipcert.evaluation.load import load_run
from lipcert.losses.accuracy import accuracy
from lipcert.losses.cross_entropy import CrossEntropy
from lipcert.losses.tulip import Tulip
from lipcert.runs.checkpoint import load_checkpoint
from lipcert.runs.config import read_config
from lipcert.runs.directory import RunDirectory
from lipcert.training.module import Training

SMALL = ("dataset.subset=100", "schedule.batch_size=25", "model.depth=2", "model.width=8", "attack=none")
JUMP = "+schedule.lr={_target_:lipcert.schedules.Step,drives:optimizer.lr,at:0.5,before:1.0,after:20.0}"  # upwards
BEST = (*SMALL, "loss=cross_entropy", "schedule=constant", JUMP, "schedule.keep=best", "optimizer.lr=0.05")
LOSSES = {
    "l2nnn": "l2nnn",
    "l2nnn_radius": "l2nnn",
    "cross_entropy": "l2nnn",
    "lmt": "convnet",
    "gloro": "convnet",
    "tulip": "convnet",
    "spectral_norm": "convnet",
    "hinge": "linf_dist",
    "clipped_hinge": "linf_dist",
    "ibp": "linf_dist_mlp",
}


def metrics(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_says_its_accuracy(name):
    config = composed(f"model={LOSSES[name]}", f"loss={name}", "dataset=digits")
    model = build(config["model"], input_shape=shape(config), num_classes=10)
    loss = build(config["loss"], num_classes=10)
    x, y = torch.rand(64, *shape(config)), torch.randint(10, (64,))
    if hasattr(loss, "prepare"):
        loss.prepare(model, shape(config))
    if getattr(loss, "perturbation", "none") != "none":
        loss.perturbation = "none"
    model.eval()
    terms = loss(model, x, y)
    assert terms["accuracy"].item() == (model(x).argmax(1) == y).float().mean().item()
    assert not terms["accuracy"].requires_grad


class Line(nn.Module):
    """Two logits of one pixel: class 1 from 1/2 on."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.zeros(len(x)), self.weight * (x.flatten(1)[:, 0] - 0.5)], 1)


X, Y = torch.tensor([0.1, 0.45, 0.55, 0.9]).view(4, 1, 1, 1), torch.tensor([0, 0, 1, 1])


def test_the_accuracy_is_of_the_images_that_were_trained_on():
    """All are right, and two of them are not after a step of 0.1 towards a higher loss."""
    adversary = lambda answer, x, y, eps: x + 0.1 * (1 - 2 * y.float()).view(-1, 1, 1, 1)  # noqa: E731
    assert CrossEntropy(num_classes=2)(Line(), X, Y)["accuracy"] == 1
    assert CrossEntropy(num_classes=2, adversary=adversary)(Line(), X, Y)["accuracy"] == 0.5
    for penalty in ("none", "max", "mean_square"):
        for at in ("perturbed", "clean"):
            for by in ("double_backprop", "finite_difference"):
                for central in (False, True):
                    kinds = {"penalty": penalty, "penalty_at": at, "penalty_by": by, "central": central}
                    moved = Tulip(num_classes=2, perturbation="l2", eps=0.1, **kinds)
                    assert moved(Line(), X, Y)["accuracy"] == 0.5, kinds
                    still = Tulip(num_classes=2, perturbation="none", h=0.2, **kinds)
                    assert still(Line(), X, Y)["accuracy"] == 1, kinds


def test_ties_and_no_numbers_are_wrong():
    logits = torch.tensor([[1.0, 1.0], [2.0, 1.0], [torch.nan, 0.0], [-torch.inf, 0.0]])
    assert accuracy(logits, torch.tensor([0, 0, 1, 1])) == 0.5


def test_the_accuracy_of_training_is_logged(tmp_path, capsys):
    """The first step of one batch an epoch is at the initial weights; resumed, the numbers are the same."""
    run = tmp_path / "run"
    one = ("schedule.batch_size=100", "schedule.epochs=2", "logger=tensorboard")
    told = lipcert(capsys, "train", *SMALL, "loss=cross_entropy", *one, f"output_dir={run}")
    assert told.status == 0, told.err
    rows = metrics(run)
    _, config, _, dataset = load_run(run, splits=("train",))
    torch.manual_seed(config["seed"])
    model = build(config["model"], input_shape=dataset.input_shape, num_classes=10)
    right = model(dataset.train.pixels().float() / 255).argmax(1) == dataset.train.labels
    assert float(rows[0]["train/accuracy"]) == pytest.approx(right.float().mean().item())
    assert [0 <= float(row["train/accuracy"]) <= 1 for row in rows] == [True, True]
    from test_resume import scalars

    shown = scalars(run)["train/accuracy"]
    assert [value for _, value in shown] == pytest.approx([float(row["train/accuracy"]) for row in rows])


@pytest.fixture(scope="module")
def best(tmp_path_factory) -> Path:
    from lipcert import train

    path = tmp_path_factory.mktemp("best") / "run"
    train(*BEST, "schedule.epochs=6", f"output_dir={path}")
    return path


def due(run: Path) -> int:
    losses = [float(row["val/cross_entropy"]) for row in metrics(run)]
    return 1 + losses.index(min(losses))


def test_the_best_weights_are_kept(best):
    """With a learning rate that makes the loss jump half-way. The network is what it was after that epoch."""
    summary, rows = RunDirectory(best).read_json("summary.json"), metrics(best)
    kept = due(best)
    assert (summary["epochs"], summary["kept_epoch"]) == (6, kept) and kept < 6
    _, _, network, dataset = load_run(best, splits=("val",))
    logits = network(dataset.val.pixels().double() / 255)
    loss = nn.functional.cross_entropy(logits, dataset.val.labels.long()).item()
    assert loss == pytest.approx(float(rows[kept - 1]["val/cross_entropy"]), rel=1e-4)
    checkpoint = load_checkpoint(RunDirectory(best))
    assert checkpoint["epochs_done"] == 6 and checkpoint["best"]["epoch"] == kept  # both weights are kept


def test_the_last_weights_are_kept_by_default(tmp_path, capsys):
    arguments = [word for word in BEST if "keep" not in word]
    run = tmp_path / "run"
    assert lipcert(capsys, "train", *arguments, "schedule.epochs=2", f"output_dir={run}").status == 0
    assert RunDirectory(run).read_json("summary.json")["kept_epoch"] == 2
    assert "best" not in load_checkpoint(RunDirectory(run))


@pytest.mark.slow
def test_a_stopped_run_knows_its_best_epoch(best, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    step = Training.training_step

    def stop(module, batch, batch_idx):
        if module.global_step == 4 * due(best) + 2:  # in the epoch after the best one
            raise KeyboardInterrupt
        return step(module, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "training_step", stop)
        assert lipcert(capsys, "train", *BEST, "schedule.epochs=6", "output_dir=run").status == 130
    assert lipcert(capsys, "train", "resume=run").status == 0
    for name in ("certificates.csv", "network/network.safetensors", "training.json"):
        assert Path("run", name).read_bytes() == (best / name).read_bytes()


def test_a_longer_run_keeps_the_best_of_all(best, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(best, "run")
    told = lipcert(capsys, "train", "resume=run", "extend=3")
    assert told.status == 0, told.err
    summary = RunDirectory("run").read_json("summary.json")
    assert (summary["epochs"], summary["kept_epoch"]) == (9, due(Path("run")))


@pytest.mark.slow
def test_a_longer_run_has_its_best_network_as_it_was(tmp_path, capsys, monkeypatch):
    """The best epoch is one of the shorter training, at whose end a ramp of the model was farther than it is now."""
    monkeypatch.chdir(tmp_path)
    given = (*SMALL, "loss=cross_entropy", "schedule=soft_to_strict", "schedule.keep=best", "schedule.epochs=2")
    assert lipcert(capsys, "train", *given, "output_dir=run").status == 0
    monkeypatch.setattr(Training, "_keep", lambda self, loss: None)  # no later epoch is a better one
    assert lipcert(capsys, "train", "resume=run", "extend=6").status == 0
    summary = RunDirectory("run").read_json("summary.json")
    config = read_config("run")
    model, done, kept = rebuild(RunDirectory("run"), config, load_run(Path("run"), splits=("val",)).dataset)
    assert (done, kept) == (8, summary["kept_epoch"]) and kept <= 2
    strict = [layer.strict for layer in model.modules() if hasattr(layer, "strict")]
    assert strict and set(strict) == {build(config["schedule"] | {"epochs": 2}).ramps["strict"](kept, 2)}
    assert set(strict) != {build(config["schedule"]).ramps["strict"](kept, 8)}


def test_early_stopping_with_the_best_weights(tmp_path, capsys):
    run = tmp_path / "run"
    stopping = ("schedule.epochs=10", "schedule.early_stopping=2")
    assert lipcert(capsys, "train", *BEST, *stopping, f"output_dir={run}").status == 0
    summary = RunDirectory(run).read_json("summary.json")
    assert summary["kept_epoch"] == due(run) == summary["epochs"] - 2 < 8


def test_what_can_not_keep_the_best(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = refused(capsys, "train", *SMALL, "schedule.keep=best", "dataset.val_size=0", "output_dir=run")
    assert said == "`schedule.keep`=best needs a validation set: give `dataset.val_size`"
    assert "schedule.keep" in refused(capsys, "train", *SMALL, "schedule.keep=first", "output_dir=run")
    said = refused(capsys, "train", "model=linf_dist", "schedule.keep=best", "attack=none", "output_dir=run")
    assert said.startswith("`schedule.keep`=best may keep an epoch of which nothing is proved: ")
    assert not Path("run").exists()


def test_a_damaged_best_is_refused(best, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(best, "run")
    run = RunDirectory("run")
    checkpoint = load_checkpoint(run)
    for spoilt in (
        [],
        {"epoch": 7},
        {**checkpoint["best"], "epoch": 7},
        {**checkpoint["best"], "loss": float("nan")},
        {**checkpoint["best"], "state_dict": {"a": 1}},
    ):
        with run.writing("test"):
            with run.replacing("checkpoints/last.ckpt") as file:
                torch.save({**checkpoint, "best": spoilt}, file)
            run.forget("summary.json")
        assert "is damaged: `best` does not hold" in refused(capsys, "train", "resume=run")
