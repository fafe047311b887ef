"""A schedule: how long to train, and what changes on the way. A pure function of progress, hence nothing to resume."""

from __future__ import annotations

from typing import Any

from torch import nn

from lipcert.schedules.ramps import Ramp


class Schedule:
    """`epochs` of training in batches of `batch_size` (all ranks together), ended early after `early_stopping` epochs
    without a smaller validation loss; every other argument is a Ramp, and its name is what the log calls it."""

    def __init__(self, *, epochs: int, batch_size: int = 128, early_stopping: int | None = None, **ramps: Ramp | None):
        if batch_size < 1:
            raise ValueError(f"`schedule.batch_size` must be at least 1, got {batch_size}")
        if epochs < 0:
            raise ValueError(f"`schedule.epochs` must be at least 0, got {epochs}")
        if early_stopping is not None and early_stopping < 1:
            raise ValueError(f"`schedule.early_stopping` must be at least 1 epoch of patience, got {early_stopping}")
        self.epochs, self.batch_size, self.early_stopping = epochs, batch_size, early_stopping
        self.ramps = {name: ramp for name, ramp in ramps.items() if ramp is not None}

    def values(self, epoch: float) -> dict[str, float]:
        return {name: ramp(epoch, self.epochs) for name, ramp in self.ramps.items()}

    def apply(self, epoch: float, *, model: nn.Module, loss: Any = None, groups: list[dict] | None = None) -> None:
        """Sets what the ramps drive to its value after `epoch` epochs; parameter groups scale their `initial_KEY`.

        ValueError where nothing has the attribute that a ramp drives.
        """
        for name, ramp in self.ramps.items():
            value = ramp(epoch, self.epochs)
            if ramp.owner == "optimizer":
                for group in groups or ():
                    if ramp.name not in group:
                        raise ValueError(f"`schedule.{name}` drives optimizer.{ramp.name}, which this one has not")
                    group[ramp.name] = value * group.setdefault(f"initial_{ramp.name}", group[ramp.name])
                continue
            own = (m for m in model.modules() if not type(m).__module__.startswith("torch."))  # Dropout too has a `p`
            owners = [loss] if ramp.owner == "loss" else list(own)
            if ramp.owner == "loss" and loss is None:
                continue
            driven = [owner for owner in owners if hasattr(owner, ramp.name)]
            if not driven:
                raise ValueError(
                    f"`schedule.{name}` drives {ramp.owner}.{ramp.name}, which this {ramp.owner} has not; "
                    "choose another `schedule`"
                )
            for owner in driven:
                setattr(owner, ramp.name, value)
