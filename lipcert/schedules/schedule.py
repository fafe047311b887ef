"""A schedule: how long to train, and what changes during training. As a function of progress it has no state."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from lipcert.schedules.ramps import Ramp


class Schedule:
    """`epochs` of training in batches of `batch_size` images (all ranks together), which ends early after
    `early_stopping` epochs without a smaller validation loss. `keep` says whose weights the classifier has in the end:
    of the `last` epoch, or of the `best`, the one with the smallest validation loss (its cross-entropy, which early
    stopping watches too). Every other argument is a Ramp; the log uses its name.
    """

    def __init__(
        self,
        *,
        epochs: int,
        batch_size: int = 128,
        early_stopping: int | None = None,
        keep: Literal["last", "best"] = "last",
        **ramps: Ramp | None,
    ):
        if batch_size < 1:
            raise ValueError(f"`schedule.batch_size` must be at least 1, got {batch_size}")
        if epochs < 0:
            raise ValueError(f"`schedule.epochs` must be at least 0, got {epochs}")
        if early_stopping is not None and early_stopping < 1:
            raise ValueError(f"`schedule.early_stopping` must be at least 1 epoch of patience, got {early_stopping}")
        if keep not in ("last", "best"):
            raise ValueError(f"`schedule.keep` must be last or best, got {keep!r}")
        self.epochs, self.batch_size, self.early_stopping, self.keep = epochs, batch_size, early_stopping, keep
        self.ramps = {name: ramp for name, ramp in ramps.items() if ramp is not None}

    def values(self, epoch: float) -> dict[str, float]:
        return {name: ramp(epoch, self.epochs) for name, ramp in self.ramps.items()}

    def apply(self, epoch: float, *, model: nn.Module, loss: Any = None, groups: list[dict] | None = None) -> None:
        """Sets what the ramps drive to its values after `epoch` epochs. In parameter groups, a ramp multiplies the
        configured value, which is kept as `initial_KEY`.

        Raises ValueError where nothing has the attribute that a ramp drives.
        """
        own = [m for m in model.modules() if not type(m).__module__.startswith("torch.")]  # Dropout, too, has a `p`
        for name, ramp in self.ramps.items():
            if ramp.owner == "loss" and loss is None:
                continue
            what = f"`schedule.{name}` drives {ramp.owner}.{ramp.name}, which this {ramp.owner} does not have"
            value = ramp(epoch, self.epochs)
            if ramp.owner == "optimizer":
                for group in groups or ():
                    if ramp.name not in group:
                        raise ValueError(what)
                    group[ramp.name] = value * group.setdefault(f"initial_{ramp.name}", group[ramp.name])
                continue
            driven = [o for o in ([loss] if ramp.owner == "loss" else own) if hasattr(o, ramp.name)]
            if not driven:
                raise ValueError(f"{what}; choose another `schedule`")
            for owner in driven:
                setattr(owner, ramp.name, value)
