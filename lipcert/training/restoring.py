"""What a training goes on from: tensors and numbers of a checkpoint, put into a state that Lightning would have saved.

Everything else of that state (where in which loop it is, which files it may delete) is derived here, not read.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lipcert.training.preparation import trainable

if TYPE_CHECKING:
    import lightning as L

    from lipcert.training.module import Training

SCALE = "MixedPrecision"  # where Lightning keeps the state of 16-mixed
EARLY_STOPPING = ("wait_count", "stopped_epoch", "best_score", "patience")


def restorable(checkpoint: dict[str, Any], trainer: L.Trainer, module: Training, path: Path) -> dict[str, Any]:
    """The state from which `trainer` goes on after the last epoch of a checkpoint.

    checkpoint  as `runs.checkpoint.load_checkpoint` reads it
    path        of its file, for messages

    Raises ValueError, in one line, where its numbers are not those of this training.
    """
    from lightning import __version__

    epochs = checkpoint["epochs_done"]
    steps = whole_number(checkpoint.get("global_step"), path, "global_step")
    if not epochs or steps % epochs:
        raise ValueError(f"{path} is damaged: it is of {steps} steps in {epochs} epochs")
    return {
        "state_dict": checkpoint["state_dict"],
        "optimizer_states": [optimizer_state(checkpoint, module, path)],
        "lr_schedulers": [],
        "callbacks": early_stopping(checkpoint, path),
        "epoch": epochs - 1,
        "global_step": steps,
        "loops": loops(trainer, epochs, steps),
        **loss_scale(checkpoint, path),
        "pytorch-lightning_version": __version__,
    }


def stopped_early(checkpoint: dict[str, Any], path: Path) -> bool:
    """Whether a checkpoint is of a training that early stopping has ended: there is nothing left to do."""
    states = early_stopping(checkpoint, path).values()
    return any(state["wait_count"] >= state["patience"] for state in states)


def early_stopping(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """The states of the callbacks of early stopping, of numbers alone; ValueError where one is damaged."""
    callbacks = checkpoint.get("callbacks", {})
    if not isinstance(callbacks, dict):
        raise ValueError(f"{path} is damaged: `callbacks` is no dictionary")
    found = {}
    for name, state in callbacks.items():
        if str(name).startswith("EarlyStopping"):
            if not isinstance(state, dict) or not state.keys() >= set(EARLY_STOPPING):
                raise ValueError(f"{path} is damaged: the state of early stopping lacks its numbers")
            for key in ("wait_count", "stopped_epoch", "patience"):
                whole_number(state[key], path, key)
            best = state["best_score"]
            if not isinstance(best, Tensor) or best.numel() != 1 or best.is_complex():
                raise ValueError(f"{path} is damaged: `best_score` is no number")
            found[name] = {key: state[key] for key in EARLY_STOPPING}
    return found


def loss_scale(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """The scale of the loss in 16-mixed precision, of numbers alone; {} in other precisions."""
    state = checkpoint.get(SCALE)
    if state is None:
        return {}
    if not isinstance(state, dict) or not all(isinstance(value, int | float) for value in state.values()):
        raise ValueError(f"{path} is damaged: `{SCALE}` holds something that is no number")
    return {SCALE: state}


def optimizer_state(checkpoint: dict[str, Any], module: Training, path: Path) -> dict[str, Any]:
    """The optimizer's moments, by parameter; its settings are the configuration's. ValueError where they do not fit."""
    states = checkpoint.get("optimizer_states")
    first = states[0] if isinstance(states, list) and len(states) == 1 else None
    state = first.get("state") if isinstance(first, dict) else None
    if not isinstance(state, dict):
        raise ValueError(f"{path} is damaged: it holds no state of one optimizer")
    due = after_one_step(module)
    known = due["state"]
    for index, moments in state.items():
        if type(index) is not int or index not in known or not isinstance(moments, dict):
            raise ValueError(f"{path} is damaged: its optimizer's state is not of these {len(known)} parameters")
        if moments.keys() != known[index].keys():
            raise ValueError(f"{path} is damaged: the state of parameter {index} has other names than this optimizer's")
        for name, value in moments.items():
            if not _alike(value, known[index][name]):
                raise ValueError(f"{path} is damaged: `{name}` of parameter {index} has another type or shape")
    return {"state": state, "param_groups": due["param_groups"]}


def after_one_step(module: Training) -> dict[str, Any]:
    """The state of the module's optimizer once it has taken a step, on a copy of the parameters."""
    parameters = trainable(*copy.deepcopy((module.model, module.loss)))
    optimizer = module.make_optimizer(parameters)
    fresh = optimizer.state_dict()
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return {"state": optimizer.state_dict()["state"], "param_groups": fresh["param_groups"]}


def _alike(value: Any, due: Any) -> bool:
    """Whether a value of a checkpoint may stand where an optimizer has `due`: the precision may be another."""
    if isinstance(due, Tensor):
        alike = isinstance(value, Tensor) and value.shape == due.shape
        return alike and value.is_floating_point() == due.is_floating_point() and not value.is_complex()
    if isinstance(due, int | float):
        return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**50
    return type(value) is type(due)


def loops(trainer: L.Trainer, epochs: int, steps: int) -> dict[str, Any]:
    """The state of Lightning's loops after the last batch of an epoch."""
    per_epoch = steps // epochs
    state = {
        "fit_loop": copy.deepcopy(trainer.fit_loop.state_dict()),
        "validate_loop": trainer.validate_loop.state_dict(),
        "test_loop": trainer.test_loop.state_dict(),
        "predict_loop": trainer.predict_loop.state_dict(),
    }
    fit = state["fit_loop"]
    for part in ("total", "current"):
        fit["epoch_progress"][part] |= {"ready": epochs, "started": epochs, "processed": epochs}
        fit["epoch_progress"][part]["completed"] = epochs - 1
        done = steps if part == "total" else per_epoch
        batch = fit["epoch_loop.batch_progress"]
        batch[part] = dict.fromkeys(batch[part], done)
        for progress in fit["epoch_loop.automatic_optimization.optim_progress"]["optimizer"].values():
            progress[part] = dict.fromkeys(progress[part], done)
    fit["epoch_loop.batch_progress"]["is_last_batch"] = True
    fit["epoch_loop.state_dict"] = {"_batches_that_stepped": steps}
    return state


def whole_number(value: Any, path: Path, name: str) -> int:
    """The value, a number from 0 that is not too large; ValueError where it is not one."""
    if type(value) is not int or not 0 <= value < 2**50:
        raise ValueError(f"{path} is damaged: `{name}` is {str(value)[:40]}")
    return value
