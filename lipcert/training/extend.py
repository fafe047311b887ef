"""Making a run's training longer, after it has ended or while it is stopped."""

from __future__ import annotations

from typing import Any

from lipcert.configuration import build
from lipcert.runs.checkpoint import load_checkpoint
from lipcert.runs.config import rewrite_config
from lipcert.runs.directory import RunDirectory
from lipcert.runs.layout import CHECKPOINT, CONFIG, LOGGER
from lipcert.training.restoring import stopped_early


def extended(run: RunDirectory, config: dict[str, Any], epochs: int) -> dict[str, Any]:
    """The configuration of a run with so many epochs more.

    The schedule is that of the longer training, which the run enters at the epoch that it has reached: a learning rate
    that had fallen to zero is larger again, and falls once more. `extended` lists the lengths that the training had
    before, so that the configuration tells how the weights came about.

    Raises ValueError, saying why, where there is nothing that could be trained on.
    """
    if epochs < 1:
        raise ValueError(f"`extend` must be at least 1 epoch, got {epochs}")
    schedule, checkpoint = config["schedule"], load_checkpoint(run)
    if not build(schedule).epochs or not checkpoint.get("optimizer_states"):
        raise ValueError(f"`extend`: {run} is not trained by gradients, so more epochs would change nothing")
    if stopped_early(checkpoint, run / CHECKPOINT):
        raise ValueError(
            f"`extend`: {run} was stopped early, as its validation loss no longer fell; train anew with a larger "
            "schedule.early_stopping"
        )
    before = [*config.get("extended", []), schedule["epochs"]]
    return {**config, "schedule": {**schedule, "epochs": schedule["epochs"] + epochs}, "extended": before}


def lengthen(run: RunDirectory, config: dict[str, Any]) -> None:
    """Gives a run, whose lock is held, an `extended` configuration; it is unfinished from then on."""
    for name in set(run.manifest()["files"]) - {CONFIG, CHECKPOINT, LOGGER}:  # all else is of the network it had
        run.forget(name)
    rewrite_config(run, config)
