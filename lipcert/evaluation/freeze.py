"""From the last checkpoint of a training to the frozen network, which is all that is evaluated from there on."""

from __future__ import annotations

from typing import Any

from torch import nn

from lipcert.configuration import build, check
from lipcert.datasets.split import Dataset
from lipcert.frozen.file import TENSORS, TEXT, save
from lipcert.frozen.freeze import freeze
from lipcert.runs.checkpoint import best_of, load_checkpoint, load_weights
from lipcert.runs.directory import RunDirectory
from lipcert.runs.layout import CHECKPOINT, NETWORK, TRAINING


def freeze_run(run: RunDirectory, config: dict[str, Any], dataset: Dataset) -> None:
    """Writes the network that a run's training ended with, how many products an image takes, how many parameters were
    trained for how many epochs, and of which epoch the weights are.

    ValueError where its checkpoint does not fit its config.
    """
    model, epochs, kept = rebuild(run, config, dataset)
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    network = freeze(model, dataset.input_shape, getattr(model, "norm", "l2"))
    products = sum(operation.products for operation in network.operations)
    facts = {"parameters": parameters, "products": products, "epochs": epochs, "kept_epoch": kept}
    run.write_json(TRAINING, facts)
    save(network, run / NETWORK)
    run.register(f"{NETWORK}/{TEXT}", f"{NETWORK}/{TENSORS}")


def rebuild(run: RunDirectory, config: dict[str, Any], dataset: Dataset) -> tuple[nn.Module, int, int]:
    """(classifier, epochs that it was trained for, epoch of its weights) of a run's checkpoint.

    The classifier is in evaluation mode, with its schedule where it was after the epoch of its weights: the last one,
    or with `schedule.keep=best` the one with the smallest validation loss.

    What the classifier is comes from the run's configuration, and only its weights from the checkpoint. ValueError
    where they do not fit, or are not finite.
    """
    checkpoint, schedule = load_checkpoint(run), build(config["schedule"])
    best = best_of(checkpoint, run / CHECKPOINT) if schedule.keep == "best" else None
    kept = best or {"epoch": checkpoint["epochs_done"], "state_dict": checkpoint["state_dict"]}
    if best:  # ramps are at what they were in the training as long as it was then
        schedule = build({**config["schedule"], "epochs": best["epochs"]})
    check(config["model"], "model")
    model = build(config["model"], input_shape=dataset.input_shape, num_classes=dataset.num_classes)
    weights = {
        name.removeprefix("model."): value
        for name, value in kept["state_dict"].items()
        if str(name).startswith("model.")
    }
    load_weights(model, weights, run / CHECKPOINT)
    if not all(value.isfinite().all() for value in weights.values()):
        raise ValueError("the checkpoint's weights are not all finite: it is of a training that diverged")
    schedule.apply(kept["epoch"], model=model)
    return model.eval(), checkpoint["epochs_done"], kept["epoch"]
