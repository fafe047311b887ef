"""Whole trainings to an accuracy, and the chain that no run may break: certified ≤ robust ≤ clean, image by image."""

import json

import pytest
from commandline import attacked, certified

from lipcert.cli import main

pytestmark = pytest.mark.slow


def train(tmp_path, *overrides: str) -> dict:
    directory = tmp_path / "run"
    assert main.run("train", [*overrides, f"output_dir={directory}"]) == 0
    proofs = {row.index: row for row in certified(directory)}
    for row in attacked(directory):
        if row.success:
            assert row.distance > proofs[row.index].radius or proofs[row.index].radius == 0
        else:
            assert proofs[row.index].prediction == proofs[row.index].label
    summary = json.loads((directory / "summary.json").read_text())
    for attack, robust in summary["robust_accuracy"].items():
        if summary["attacked_images"][attack] == summary["test_images"]:
            for eps, value in summary["certified_accuracy"].items():
                assert value <= robust[eps] <= summary["clean_accuracy"]
    return summary


def test_the_default_run_on_digits(tmp_path):
    summary = train(tmp_path)
    assert summary["clean_accuracy"] >= 0.96
    assert summary["certified_accuracy"]["0.3"] >= 0.85  # 1-nearest-neighbour: 0.75


def test_nearest_neighbour_on_digits(tmp_path):
    summary = train(tmp_path, "model=nearest_neighbour")
    assert summary["clean_accuracy"] >= 0.98
    assert 0.70 <= summary["certified_accuracy"]["0.3"] <= 0.80


def test_the_soft_scheme_is_certified_by_its_real_norms(tmp_path):
    summary = train(tmp_path, "loss=l2nnn", "optimizer=adam", "schedule=soft_to_strict", "schedule.epochs=40")
    assert summary["clean_accuracy"] >= 0.8
    assert summary["lipschitz_of_logits"] <= 1 + 1e-6


@pytest.mark.parametrize("model", ["l2nnn_resnet", "l2nnn_deep", "convnet", "ordinary_deep"])
def test_every_architecture_learns(tmp_path, model):
    epochs = {"l2nnn_resnet": 10, "l2nnn_deep": 40}.get(model, 15)
    small = ["model.shared=2", "model.shared_width=64", "model.branch=2", "model.branch_width=16"]
    overrides = small if model in ("l2nnn_deep", "ordinary_deep") else []
    summary = train(tmp_path, f"model={model}", f"schedule.epochs={epochs}", "attack.images=100", *overrides)
    assert summary["clean_accuracy"] >= 0.85


def test_adversarial_training_and_carlini_wagner(tmp_path):
    adversary = ("+attack@loss.adversary=pgd_linf", "loss.adversary.eps=[0.1]", "loss.adversary.steps=3")
    attack = ("attack=carlini_wagner_l2", "attack.steps=50", "attack.images=20")
    summary = train(tmp_path, "model=convnet", "schedule.epochs=4", *adversary, "loss.adversary.seed=null", *attack)
    assert summary["clean_accuracy"] >= 0.7


def test_real_mnist(tmp_path, mnist_dir):
    summary = train(tmp_path, "dataset=mnist", f"data_dir={mnist_dir}", "schedule.epochs=2", "attack.images=200",
                    "dataset.subset=20000")  # fmt: skip
    assert summary["clean_accuracy"] >= 0.9
    assert summary["certified_accuracy"]["1.58"] >= 0.2
