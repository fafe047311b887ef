"""The recipes of conf/experiment: each is short, composes and builds; what the user writes wins."""

import csv
import json
import math
from pathlib import Path

import pytest
from commandline import lipcert
from configurations import CONF, built, composed, kind, recipes
from test_datasets import write_svhn

from lipcert.configuration import build
from lipcert.optimizers.muon import Muon
from lipcert.training import module

RECIPES = recipes()


def recipe(name: str, *overrides: str) -> dict:
    return composed(f"experiment={name}", *overrides)


def test_there_are_few_and_each_is_short_and_says_what_it_is():
    files = list((CONF / "experiment").rglob("*.yaml"))
    assert len(files) <= 40 and len(list(CONF.rglob("*.yaml"))) <= 200
    for path in files:
        lines = path.read_text().splitlines()
        assert lines[0] == "# @package _global_"  # Hydra reads it from nowhere but the first line
        assert lines[1].startswith("# ") and len([line for line in lines if not line.startswith("#")]) <= 25


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_composes_builds_and_ends_where_it_can_be_certified(name):
    config = recipe(name)
    *_, schedule = built(config)
    if "_target_" in config["attack"]:
        build(config["attack"])
    build(config["certificate"])
    assert schedule.values(schedule.epochs).get("p", math.inf) == math.inf


def test_what_the_user_writes_wins_over_a_recipe():
    name = "l2nnn/mnist_adversarial"
    config = recipe(name, "schedule.epochs=3", "loss.omega=0.5", "eps=[0.7]", "dataset.val_size=1000", "seed=4")
    assert (config["schedule"]["epochs"], config["loss"]["omega"], config["eps"]) == (3, 0.5, [0.7])
    assert (config["dataset"]["val_size"], config["dataset"]["seed"]) == (1000, 4)
    assert kind(recipe(name, "dataset=fashion_mnist")["dataset"]) == "fashion_mnist"
    assert recipe(name, "loss.adversary=null")["loss"]["adversary"] is None
    assert kind(recipe(name, "attack=pgd_l2")["attack"]) == "ProjectedGradient"
    assert "_target_" not in recipe(name, "attack=none")["attack"]


def test_the_l2nnns_recipe_stays_the_same_whatever_the_defaults_become():
    config = recipe("l2nnn/mnist")
    model, loss, optimizer, schedule = built(config)
    assert [loss.alpha, loss.gamma, loss.omega, loss.z, loss.lambda_w, loss.v.item()] == [1, 1, 1, 1, 0, 5]
    assert not loss.v.requires_grad and loss.u.requires_grad and loss.adversary is None
    assert isinstance(optimizer, Muon) and optimizer.retract
    assert (schedule.epochs, schedule.batch_size) == (120, 128)
    rates = [schedule.values(epoch)["lr"] * config["optimizer"]["lr"] for epoch in (0, 59.9999, 60, 120)]
    assert rates == pytest.approx([0.05, 5e-5, 0.015, 5e-5], rel=1e-3)
    assert [schedule.values(epoch)["strict"] for epoch in (0, 59, 60, 120)] == [0, 0, 1, 1]
    assert all(layer.strict == 1 for layer in model.modules() if hasattr(layer, "strict"))


@pytest.mark.parametrize(
    ("name", "eps", "step", "steps"),
    [
        ("l2nnn/mnist_adversarial", 0.3, 0.01, 40),
        ("l2nnn/mnist_convnet_adversarial", 0.3, 0.01, 40),
        ("l2nnn/cifar10_adversarial", 8 / 255, 2 / 255, 10),
        ("l2nnn/cifar10_convnet_adversarial", 8 / 255, 2 / 255, 10),
    ],
)
def test_adversarial_recipes_train_on_madrys_attack(name, eps, step, steps):
    attack = built(recipe(name))[1].adversary
    assert (attack.norm, attack.eps, attack.steps) == ("linf", [eps], steps)
    assert attack.rel_stepsize * eps == pytest.approx(step)
    assert attack.random_start and attack.seed is None  # else every step would start from the same points
    plain = recipe(name.removesuffix("_adversarial"))
    assert {key for key in plain if plain[key] != recipe(name)[key]} == {"loss"}


@pytest.mark.parametrize(
    ("name", "begin", "finish", "end", "hold"),
    [
        ("linf_dist/mnist", 50, 350, 400, 50),
        ("linf_dist/mnist_mlp", 50, 350, 400, 50),
        ("linf_dist/cifar10", 100, 750, 800, 100),
        ("linf_dist/cifar10_mlp", 100, 750, 800, 100),
        ("linf_dist/tiny_imagenet", 100, 450, 500, 100),
        ("iclr2022/mnist", 25, 400, 450, 0),
        ("iclr2022/cifar10", 100, 1250, 1300, 0),
    ],
)
def test_distance_nets_have_the_papers_schedule_and_end_at_infinity(name, begin, finish, end, hold):
    """p leaves 8 at `begin`, is infinite from `finish` on; the learning rate falls from `hold` to the end."""
    *_, schedule = built(recipe(name))
    assert (schedule.epochs, schedule.batch_size, schedule.early_stopping) == (end, 512, None)

    def at(key: str, *epochs: float) -> list[float]:
        return [schedule.values(epoch)[key] for epoch in epochs]

    expected = [8, 8, math.sqrt(8 * 1000), 1000, math.inf, math.inf]
    epochs = (0, begin, (begin + finish) / 2, finish - 1e-9, finish, end)
    assert at("p", *epochs) == pytest.approx(expected, rel=1e-6)
    assert at("lr", 0, hold, (hold + end) / 2, end) == pytest.approx([1, 1, 0.5, 0])
    if name.endswith(("_mlp", "tiny_imagenet")):
        eps = recipe(name)["loss"]["eps"]
        assert at("eps", 0, begin / 2, begin, end) == pytest.approx([0, eps / 2, eps, eps])


def test_the_ablations_recipes_fit_another_data_set_and_a_small_machine():
    for name, eps in (("linf_dist/cifar10", 0.45), ("linf_dist/cifar10_mlp", 0.35)):
        small = recipe(name, "dataset=mnist", "model.width=256", "schedule.epochs=20")
        assert small["eps"] == small["attack"]["eps"] == composed("dataset=mnist")["dataset"]["eps_linf"]
        assert small["loss"]["eps"] == eps and small["model"]["mean"] == [0.1307]
        assert built(small)[3].values(18.8)["p"] == math.inf


def test_what_the_authors_first_code_had_otherwise_can_be_laid_over_tulips_recipe():
    config, before = composed("experiment=[tulip/cifar10,tulip/released]"), recipe("tulip/cifar10")
    assert (config["loss"]["eps"], config["loss"]["penalty_weight"]) == (0.01, 0.1)
    assert (config["loss"]["gradient_of"], config["loss"]["perturbation_mode"]) == ("mean", "evaluation")
    assert (config["model"]["pooling"], config["model"]["trained_scale"]) == ("after_first_block", True)
    assert config["dataset"]["augment"][-1]["fill"] == 0 and before["dataset"]["augment"][-1]["fill"] == "mean"
    assert (config["optimizer"]["weight_decay"], before["optimizer"]["weight_decay"]) == (1e-3, 5e-4)
    assert {key for key in config if config[key] != before[key]} == {"loss", "dataset", "model", "optimizer"}
    allcnn = ("model=allcnn", "~model.pooling", "~model.trained_scale", "model.last_relu=true")
    assert composed("experiment=[tulip/cifar10,tulip/released]", *allcnn)["model"]["last_relu"]


def finished(run: Path) -> dict:
    summary = json.loads((run / "summary.json").read_text())
    rows = list(csv.DictReader((run / "certificates.csv").read_text().splitlines()))
    assert summary["finished"] and summary["kind"] == "proof" and len(rows) == summary["test_images"]
    assert all(float(row["radius"]) >= 0 for row in rows)
    return summary


@pytest.mark.slow
def test_on_svhns_own_files_it_trains_certifies_and_resumes(tmp_path, monkeypatch, capsys):
    """The digits 0 that the files call 10, the extra images, batch normalisation, a stop in the second epoch."""
    data = tmp_path / "data"
    write_svhn(data, monkeypatch)
    small = ["model=lmt_resnet", "model.depth=10", "model.width=1", "dataset=svhn", "attack=none"]
    small += ["dataset.extra=true", "dataset.val_size=0", f"data_dir={data}"]
    small += ["schedule.epochs=2", "schedule.batch_size=30"]  # two steps an epoch, of the extra images too
    run = tmp_path / "run"
    step, steps = module.Training.training_step, []

    def stop(training, batch, batch_idx):
        steps.append(len(batch[1]))
        if len(steps) == 4:
            raise KeyboardInterrupt
        return step(training, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(module.Training, "training_step", stop)
        assert lipcert(capsys, "train", *small, f"output_dir={run}").status == 130
    assert not (run / "summary.json").exists() and (run / "checkpoints" / "last.ckpt").exists()
    assert lipcert(capsys, "train", f"resume={run}").status == 0
    assert steps == [30] * 4
    summary = finished(run)
    assert summary["dataset"].endswith("svhn.svhn") and summary["model"].endswith("LMTResNet")


SMALL = ("schedule.epochs=2", "dataset=digits", "schedule.batch_size=128")
TRIED = {  # recipes in seconds: what makes them small
    "lmt/mnist": ("dataset=digits", "schedule.epochs=2", "attack.images=20"),
    "lmt/mnist_adversarial": ("dataset=digits", "schedule.epochs=2", "attack.images=20"),
    "linf_dist/mnist": (*SMALL, "eps=[0.02]", "model.width=16"),
    "linf_dist/cifar10_mlp": (*SMALL, "eps=[0.02]", "model.width=16"),
    "iclr2022/mnist": (*SMALL, "eps=[0.02]", "model.width=16"),
    "l2nnn/mnist_convnet": (*SMALL, "attack=pgd_l2", "attack.images=20"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRIED)
def test_a_recipe_can_be_tried_in_seconds(tmp_path, capsys, name):
    told = lipcert(capsys, "train", f"experiment={name}", *TRIED[name], f"output_dir={tmp_path}/run")
    assert told.status == 0, told.err
    assert finished(tmp_path / "run")["clean_accuracy"] >= 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [(), ("loss=cross_entropy", "schedule=milestones"), ("model=parseval_resnet", "loss=cross_entropy")]
)
def test_the_recipe_for_svhn_can_be_tried_on_files_of_its_kind(tmp_path, monkeypatch, capsys, more):
    write_svhn(tmp_path / "data", monkeypatch)
    small = ["model.depth=10", "model.width=1", "schedule.epochs=2", "schedule.batch_size=30", "attack.steps=5"]
    where = [f"data_dir={tmp_path}/data", f"output_dir={tmp_path}/run"]
    assert lipcert(capsys, "train", "experiment=lmt/svhn", *more, *small, *where).status == 0
    assert list(finished(tmp_path / "run")["certified_accuracy"]) == ["0.2", "0.5", "1.0"]
