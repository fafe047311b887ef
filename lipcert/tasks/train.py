"""`lipcert train`: data, training, a certificate an image, an attack an image, and the record of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from torch import nn

from lipcert.datasets.split import Dataset
from lipcert.frozen import freeze
from lipcert.tasks import attack as attacks
from lipcert.tasks import certify, fitting, record, store
from lipcert.tasks.devices import check_trainer, is_first_node
from lipcert.tasks.errors import blamed
from lipcert.tasks.settings import MENDABLE, build, check, check_call

NOT_KEPT: dict[str, Any] = {"output_dir": "", "data_dir": "", "resume": None, "trust": False}  # in config.yaml


def run(
    *,
    dataset: dict,
    model: dict,
    loss: dict,
    optimizer: dict,
    schedule: dict,
    certificate: dict,
    attack: dict | None,
    trainer: dict,
    eps: list[float],
    seed: int,
    output_dir: str,
    data_dir: str,
    resume: str | None,
    trust: bool,
) -> None:
    """The command. With `resume`, all but `trust` comes from that run's own configuration."""
    if resume is not None:
        resume_run(Path(resume), trust)
        return
    if "_target_" not in (attack or {}):  # attack=none, perhaps with keys that an experiment sets for its own attack
        attack = None
    config = {
        "seed": seed,
        "eps": eps,
        "dataset": dataset,
        "model": model,
        "loss": loss,
        "optimizer": optimizer,
        "schedule": schedule,
        "certificate": certificate,
        "attack": attack,
        "trainer": trainer,
    }
    preflight(config)
    directory = Path(output_dir)
    if is_first_node(trainer["num_nodes"]):
        store.create(directory, yaml.safe_load(yaml.safe_dump(config)))
    finish(directory, config, trust=True)


def preflight(config: dict[str, Any]) -> None:
    """Builds every part once before anything is written: what can't be built is an error that leaves no trace."""
    if any(not e >= 0 for e in config["eps"]):
        raise ValueError(f"`eps` must be at least 0, got {config['eps']}")
    for part in ("dataset", "model", "loss", "optimizer", "schedule", "certificate"):
        if "_target_" not in config[part]:
            raise ValueError(f"`{part}._target_` must be given: it says what `{part}` is")
    settings = config["trainer"]
    check_call(check_trainer, settings, "trainer", called="conf/trainer")
    check_trainer(**settings)
    is_first_node(settings["num_nodes"])
    dataset = build(config["dataset"])
    network = build(config["model"], input_shape=dataset.input_shape, num_classes=dataset.num_classes)
    loss = build(config["loss"], num_classes=dataset.num_classes)
    schedule = build(config["schedule"])
    groups = None
    if fitting.is_trained(network, schedule):
        try_out(network, config["model"]["_target_"], dataset)
        fitting.prepare(loss, network, dataset)
        groups = fitting.make_optimizer(config, network, loss).param_groups
    schedule.apply(0.0, model=network, loss=loss, groups=groups)
    ranks = settings["devices"] * settings["num_nodes"]
    if schedule.batch_size % ranks:
        raise ValueError(
            f"`schedule.batch_size` must be a multiple of the {ranks} ranks that share it, got {schedule.batch_size}"
        )
    if schedule.early_stopping and not len(dataset.val):
        raise ValueError("`schedule.early_stopping` needs a validation set: give `dataset.val_size`")
    certificate = build(config["certificate"])
    if config["attack"]:
        build(config["attack"])
    if fitting.is_trained(network, schedule):  # what can't be certified is refused now, not after hours of training
        schedule.apply(schedule.epochs, model=network)
        with certify.exact_arithmetic():
            certificate(freeze(network, dataset.input_shape, getattr(network, "norm", "l2")))


def try_out(network: nn.Module, name: str, dataset: Dataset) -> None:
    """ValueError if the classifier can't take the data set's images, or answers in another form than logits (B, K)."""
    with torch.no_grad():
        try:
            logits = network.eval()(torch.zeros(2, *dataset.input_shape))
        except MENDABLE as error:
            raise blamed(f"`model`: {name} fails on images of shape {dataset.input_shape}", error) from error
    shape = tuple(getattr(logits, "shape", ()))
    if shape != (2, dataset.num_classes):
        due = f"`model`: {name} must give logits of shape (2, {dataset.num_classes}) for 2 images"
        raise ValueError(f"{due}, got {shape}")


def resume_run(directory: Path, trust: bool) -> None:
    """Goes on where the run was stopped; a finished run is left alone, and says so."""
    config = store.read_config(directory, "resume", trust)
    check_call(run, {**config, **NOT_KEPT}, called=store.CONFIG)
    check(config)
    if store.read_summary(directory).get("finished"):
        print(f"{directory} is finished: nothing to resume")
        return
    preflight(config)
    path = directory / store.CHECKPOINT
    if path.exists():
        saved = store.load_checkpoint(path, trust)["config"]
        different = [key for key in ("model", "loss", "optimizer", "schedule", "seed") if saved.get(key) != config[key]]
        if different:
            raise ValueError(f"{path} is of another run than its {store.CONFIG}: they differ in `{different[0]}`")
    finish(directory, config, trust)


def finish(directory: Path, config: dict[str, Any], trust: bool) -> None:
    """All stages from wherever the run is: each picks up what it finds in the directory."""
    Console().print(f"run: {directory}", soft_wrap=True, highlight=False)
    fitting.fit(directory, config)
    if not is_first_node(config["trainer"]["num_nodes"]):
        return
    store.freeze_run(directory, build(config["dataset"]), trust)
    loaded, network, dataset = certify.load_run(directory, trust=trust)
    store.keep_label_noise(directory, dataset)
    device = "cuda" if check_trainer(**config["trainer"]) == "gpu" else "cpu"
    certify.certify(directory, loaded, network, dataset, device=device)
    if config["attack"]:
        attacks.attack_run(directory, loaded, network, dataset, config["attack"], device=device)
    record.write(directory, finished=True)
    record.show(directory)
