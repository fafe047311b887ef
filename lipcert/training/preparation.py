"""What is trained, and by which optimizer: what can be refused before Lightning is imported, which takes seconds."""

from __future__ import annotations

from typing import Any

from torch import nn, optim

from lipcert.configuration import build
from lipcert.datasets.split import Dataset
from lipcert.errors import CAUSED_BY_VALUES, blamed


def prepare(loss: Any, model: nn.Module, dataset: Dataset) -> None:
    """Lets a loss that keeps something for the model see it; ValueError where it can't train it."""
    if hasattr(loss, "prepare"):
        loss.prepare(model, dataset.input_shape)


def is_trained(model: nn.Module, schedule: Any) -> bool:
    """Whether there is any gradient training to do."""
    return bool(schedule.epochs) and any(p.requires_grad for p in model.parameters())


def make_optimizer(config: dict[str, Any], model: nn.Module, loss: nn.Module) -> optim.Optimizer:
    """The configured optimizer of what is trainable; ValueError naming it if it refuses its configuration."""
    try:
        return build(config["optimizer"])(trainable(model, loss))
    except CAUSED_BY_VALUES as error:
        raise blamed(f"`optimizer`: {config['optimizer']['_target_']} refuses this", error) from error


def trainable(model: nn.Module, loss: nn.Module) -> list[nn.Parameter]:
    """The parameters that gradients change: those of the model, then those of the loss."""
    return [p for p in (*model.parameters(), *loss.parameters()) if p.requires_grad]
