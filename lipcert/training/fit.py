"""Training of a run in one process: all of it, or one rank's share."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch

from lipcert.configuration import build
from lipcert.contracts import Logger
from lipcert.datasets import batches
from lipcert.datasets.split import Dataset
from lipcert.progress import Progress
from lipcert.runs.checkpoint import best_of, load_checkpoint, load_weights
from lipcert.runs.directory import RunDirectory
from lipcert.runs.layout import CHECKPOINT
from lipcert.runs.metrics import Metrics
from lipcert.training.devices import check_trainer
from lipcert.training.module import Training
from lipcert.training.monitor import Monitor
from lipcert.training.preparation import is_trained, prepare
from lipcert.training.restoring import restorable, stopped_early
from lipcert.training.trainer import RegisteredCheckpointIO, fit, make_trainer


def fit_here(run: RunDirectory, config: dict[str, Any], dataset: Dataset, logger: Logger | None) -> None:
    """Trains the run from its last checkpoint on, or from the start; returns when it is trained.

    config   the run's, checked
    dataset  that it names
    logger   what is told of each epoch, besides metrics.csv
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
    )
    if checkpoint:
        if settings["precision"] == "64-true":
            module.double()  # before Lightning does, so that no weight is rounded
        load_weights(module, checkpoint["state_dict"], run / CHECKPOINT)
        module.best = best_of(checkpoint, run / CHECKPOINT)
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
    steps, alone = len(train), trainer.world_size == 1  # what several ranks print on stderr is kept for their errors
    shown = Progress("training", steps * schedule.epochs, steps * done, shown=trainer.is_global_zero, stderr=alone)
    monitor = Monitor(config, dataset, steps, trainer.strategy.root_device)
    metrics = Metrics(run.path, keep=done)

    def on_epoch(numbers: dict[str, float]) -> None:
        numbers |= monitor(model, int(numbers["epoch"]))
        metrics.epoch(numbers)
        if logger:
            logger.epoch(numbers)
        accuracy = f", val accuracy {numbers['val/accuracy']:.2%}" if "val/accuracy" in numbers else ""
        shown.tell(f"loss {numbers['train/loss']:.4g}{accuracy}")

    module.on_epoch = on_epoch
    fit(trainer, module, train, val, run, going_on, shown)


def silence_lightning() -> None:
    """Under Hydra, Lightning's handlers print each line twice; and none of its hints here would be right."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
