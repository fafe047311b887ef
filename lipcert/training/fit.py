"""Training of a run in one process: all of it, or one rank's share."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch

from lipcert.configuration import build
from lipcert.datasets import batches
from lipcert.datasets.split import Dataset
from lipcert.errors import CAUSED_BY_VALUES, blamed
from lipcert.runs.checkpoint import load_checkpoint, load_weights
from lipcert.runs.directory import RunDirectory
from lipcert.runs.layout import CHECKPOINT
from lipcert.runs.tensorboard import EpochLog
from lipcert.training.devices import check_trainer
from lipcert.training.module import Training, trainable
from lipcert.training.restoring import restorable, stopped_early
from lipcert.training.trainer import RegisteredCheckpointIO, fit, make_trainer


def fit_here(run: RunDirectory, config: dict[str, Any], dataset: Dataset) -> None:
    """Trains the run from its last checkpoint on, or from the start; returns when it is trained.

    config   the run's, checked
    dataset  that it names
    """
    silence_lightning()
    settings, seed = config["trainer"], config["seed"]
    accelerator = check_trainer(**settings)
    schedule = build(config["schedule"])
    torch.manual_seed(seed)
    model = build(config["model"], input_shape=dataset.input_shape, num_classes=dataset.num_classes)
    loss = build(config["loss"], num_classes=dataset.num_classes)
    if is_trained(model, schedule):
        prepare(loss, model, dataset)
    checkpoint = load_checkpoint(run) if run.has(CHECKPOINT) else None
    done = checkpoint["epochs_done"] if checkpoint else 0
    module = Training(
        model=model,
        loss=loss,
        optimizer=build(config["optimizer"]),
        schedule=schedule,
        seed=seed,
        on_epoch=EpochLog(run.path, keep=done),
    )
    if checkpoint:
        if settings["precision"] == "64-true":
            module.double()  # before Lightning does, so that no weight is rounded
        load_weights(module, checkpoint["state_dict"], run / CHECKPOINT)
    trainer = make_trainer(
        run,
        epochs=schedule.epochs,
        early_stopping=schedule.early_stopping,
        precision=settings["precision"],
        accelerator=accelerator,
        devices=settings["devices"],
        num_nodes=settings["num_nodes"],
    )
    if hasattr(model, "memorise"):
        model.memorise(dataset.train.pixels(), dataset.train.labels)
    if not is_trained(model, schedule):
        if trainer.is_global_zero:
            state = {"state_dict": module.state_dict(), "epochs_done": 0}
            RegisteredCheckpointIO(run).save_checkpoint(state, run / CHECKPOINT)
        return
    if checkpoint and stopped_early(checkpoint, run / CHECKPOINT):
        return
    share: dict[str, Any] = {
        "device": trainer.strategy.root_device,
        "seed": seed,
        "rank": trainer.global_rank,
        "world_size": trainer.world_size,
        "workers": dataset.workers,
    }
    train = batches(dataset.train, schedule.batch_size, augment=dataset.augment, shuffle=True, drop_last=True, **share)
    val = batches(dataset.val, 1000 * trainer.world_size, **share) if len(dataset.val) else None
    going_on = restorable(checkpoint, trainer, module, run / CHECKPOINT) if checkpoint else None
    fit(trainer, module, train, val, run, going_on)


def prepare(loss: Any, model: torch.nn.Module, dataset: Dataset) -> None:
    """Lets a loss that keeps something for the model see it; ValueError where it can't train it."""
    if hasattr(loss, "prepare"):
        loss.prepare(model, dataset.input_shape)


def is_trained(model: torch.nn.Module, schedule: Any) -> bool:
    """Whether there is any gradient training to do."""
    return bool(schedule.epochs) and any(p.requires_grad for p in model.parameters())


def make_optimizer(config: dict[str, Any], model: torch.nn.Module, loss: torch.nn.Module) -> torch.optim.Optimizer:
    """The configured optimizer of what is trainable; ValueError naming it if it refuses its configuration."""
    try:
        return build(config["optimizer"])(trainable(model, loss))
    except CAUSED_BY_VALUES as error:
        raise blamed(f"`optimizer`: {config['optimizer']['_target_']} refuses this", error) from error


def silence_lightning() -> None:
    """Under Hydra, Lightning's handlers print each line twice; and none of its hints here would be right."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
