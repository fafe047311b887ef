"""`lipcert train`: data, training, a certificate an image, an attack an image, and the record of the run."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from lipcert.configuration import build, check, check_call, radii
from lipcert.datasets import batches
from lipcert.datasets.split import Dataset
from lipcert.errors import CAUSED_BY_VALUES, blamed, one_line
from lipcert.evaluation.arithmetic import exact_arithmetic
from lipcert.evaluation.attack import attack_run
from lipcert.evaluation.certify import certify
from lipcert.evaluation.freeze import freeze_run
from lipcert.evaluation.load import LoadedRun, build_dataset, check_data, fingerprints, read_network
from lipcert.evaluation.record import show, write_record
from lipcert.files import write_atomic
from lipcert.frozen import freeze
from lipcert.runs.config import AlreadyExists, make_directory, read_config, write_config
from lipcert.runs.directory import RunDirectory, is_run
from lipcert.runs.find import is_finished
from lipcert.runs.layout import CONFIG, LABEL_NOISE
from lipcert.training import ranks
from lipcert.training.devices import check_trainer, is_first_node
from lipcert.training.fit import is_trained, make_optimizer, prepare

# What the command takes besides, and config.yaml does not keep.
NOT_KEPT: dict[str, Any] = {"training": {}, "output_dir": "", "data_dir": "", "resume": None, "trust": False}


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
    training: dict,
    eps: list[float],
    seed: int,
    output_dir: str,
    data_dir: str | None,
    resume: str | None,
    trust: bool,
) -> None:
    """The command. With `resume`, all but `trust` comes from that run's own configuration.

    `training` and `data_dir` are what other keys refer to: they stand in these by now.
    """
    if resume is not None:
        resume_run(Path(resume), trust)
        return
    if "_target_" not in (attack or {}):  # attack=none, perhaps with keys that a recipe sets for its own attack
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
    check_call(training_choices, training, "training", called="conf/training")
    data = preflight(config)
    directory = Path(output_dir)
    if not is_first_node(trainer["num_nodes"]):
        ranks.train(RunDirectory(directory), config, data)
        return
    make_directory(directory)
    new = RunDirectory(directory)
    with new.writing("train"):
        write_config(new, config, fingerprints(data))
        finish(new, config, data)


def training_choices(
    *,
    radius: float | None,
    c: float | None,
    eps_train: float | None,
    eps_ibp: float | None,
    epochs: int,
    batch_size: int,
) -> None:
    """What the group `training` may say; conf/train.yaml explains it."""


def resume_run(directory: Path, trust: bool, download: bool | None = None) -> None:
    """Goes on where a run was stopped; a finished one is left alone, and says so.

    trust     whether its configuration may name code outside lipcert
    download  whether missing data may be downloaded; None: if it is trusted
    """
    download = trust if download is None else download
    config = read_config(directory, "resume", trust)
    check_call(run, {**config, **NOT_KEPT}, called=CONFIG)
    check(config)
    check_call(check_trainer, config["trainer"], "trainer", called="conf/trainer")
    if not is_first_node(config["trainer"]["num_nodes"]):
        ranks.train(RunDirectory(directory), config, preflight(config, download))
        return
    stopped = RunDirectory(directory)
    if not is_finished(stopped):
        with stopped.writing("train"):
            if not is_finished(stopped):  # whoever held the lock before may have finished it
                data = preflight(config, download)
                check_data(stopped, data, ("train", "val", "test"))
                finish(stopped, config, data)
                return
    print(f"{directory} is finished: nothing to resume")


def begin_or_resume(directory: Path, settings: dict[str, Any]) -> None:
    """Runs a job of a sweep, or goes on with it if it was begun before, by this process or another one."""
    if not is_run(directory):
        try:
            run(**{**settings, "output_dir": str(directory)})
            return
        except AlreadyExists:
            if not is_run(directory):
                raise
    resume_same(directory, settings)


def resume_same(directory: Path, settings: dict[str, Any]) -> None:
    """Goes on with a run of these settings; ValueError where it is of others.

    What its configuration names is then what the command line names, and as trusted.
    """
    config = read_config(directory, "output_dir", trust=True)
    due = {**settings, "attack": settings["attack"] if "_target_" in (settings["attack"] or {}) else None}
    if different := [key for key in config if config[key] != due.get(key)]:
        raise ValueError(f"`output_dir`: {directory} is a run of another `{different[0]}`: give another directory")
    resume_run(directory, trust=True)


def finish(directory: RunDirectory, config: dict[str, Any], dataset: Dataset) -> None:
    """All stages from wherever the run is: each picks up what it finds in the directory, whose lock is held."""
    Console().print(f"run: {directory}", soft_wrap=True, highlight=False)
    ranks.train(directory, config, dataset)
    freeze_run(directory, config, dataset)
    keep_label_noise(directory, dataset)
    loaded = LoadedRun(directory, config, read_network(directory), dataset)
    device = "cuda" if check_trainer(**config["trainer"]) == "gpu" else "cpu"
    certify(loaded, device=device)
    if config["attack"]:
        attack_run(loaded, config["attack"], device=device)
    write_record(directory, finished=True)
    show(directory)


def preflight(config: dict[str, Any], download: bool = True) -> Dataset:
    """Builds every part once before anything is written: what can't be built is an error that leaves no trace.

    download  whether missing data may be downloaded

    Returns the data set, which is built once and for all.
    """
    config["eps"] = radii(config["eps"])
    if not 0 <= config["seed"] < 2**63:
        raise ValueError(f"`seed` must be from 0 to 2^63 − 1, got {config['seed']}")
    for part in ("dataset", "model", "loss", "optimizer", "schedule", "certificate"):
        if "_target_" not in config[part]:
            raise ValueError(f"`{part}._target_` must be given: it says what `{part}` is")
    settings = config["trainer"]
    check_call(check_trainer, settings, "trainer", called="conf/trainer")
    check_trainer(**settings)
    is_first_node(settings["num_nodes"])
    dataset = build_dataset(config["dataset"], download)
    network = build(config["model"], input_shape=dataset.input_shape, num_classes=dataset.num_classes)
    loss = build(config["loss"], num_classes=dataset.num_classes)
    schedule = build(config["schedule"])
    trained = is_trained(network, schedule)
    groups = None
    if trained:
        try_out(network, config["model"]["_target_"], dataset)
        prepare(loss, network, dataset)
        if settings["precision"] != "32-true":
            try_precision(network, loss, dataset, check_trainer(**settings), settings["precision"])
        groups = make_optimizer(config, network, loss).param_groups
    schedule.apply(0.0, model=network, loss=loss, groups=groups)
    shared_by = settings["devices"] * settings["num_nodes"]
    if schedule.batch_size % shared_by:
        raise ValueError(
            f"`schedule.batch_size` must be a multiple of the {shared_by} ranks that share it, got "
            f"{schedule.batch_size}"
        )
    if schedule.early_stopping and not len(dataset.val):
        raise ValueError("`schedule.early_stopping` needs a validation set: give `dataset.val_size`")
    certificate = build(config["certificate"])
    if config["attack"]:
        build(config["attack"])
    if trained:  # what can't be certified is refused now, not after hours of training
        schedule.apply(schedule.epochs, model=network)
        with exact_arithmetic():
            certificate(freeze(network, dataset.input_shape, getattr(network, "norm", "l2")))
    return dataset


def try_out(network: nn.Module, name: str, dataset: Dataset) -> None:
    """ValueError if the classifier can't take the data set's images, or answers in another form than logits (B, K)."""
    with torch.no_grad():
        try:
            logits = network.eval()(torch.zeros(2, *dataset.input_shape))
        except CAUSED_BY_VALUES as error:
            raise blamed(f"`model`: {name} fails on images of shape {dataset.input_shape}", error) from error
    shape = tuple(getattr(logits, "shape", ()))
    if shape != (2, dataset.num_classes):
        due = f"`model`: {name} must give logits of shape (2, {dataset.num_classes}) for 2 images"
        raise ValueError(f"{due}, got {shape}")


def try_precision(network: nn.Module, loss: nn.Module, dataset: Dataset, accelerator: str, precision: str) -> None:
    """ValueError if a step of training fails in a precision other than float32; the parts are copied for it."""
    device = "cuda" if accelerator == "gpu" else "cpu"
    dtype = {"64-true": torch.float64, "16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}[precision]
    model, loss = copy.deepcopy((network, loss))
    x, y = next(iter(batches(dataset.train.head(2), 2, device=device)))
    mixed = precision != "64-true"
    try:
        if not mixed:
            model, loss, x = model.double(), loss.double(), x.double()
        model, loss = model.to(device).train(), loss.to(device).train()
        with torch.autocast(device, dtype, enabled=mixed):
            value = loss(model, x, y)["loss"]
        value.backward()
    except CAUSED_BY_VALUES as error:
        what = f"`trainer.precision`: this model and loss can't be trained in {precision}, take 32-true"
        raise ValueError(f"{what} ({one_line(error)})") from error


def keep_label_noise(directory: RunDirectory, dataset: Dataset) -> None:
    """Writes label_noise.csv where training labels were replaced: index in the training set, label before and after."""
    noise = dataset.label_noise
    if len(noise.indices):
        rows = zip(*(column.tolist() for column in noise), strict=True)
        text = "".join(f"{index},{before},{after}\n" for index, before, after in rows)
        write_atomic(directory / LABEL_NOISE, "index,before,after\n" + text)
