"""What a run computes on: asked for in the configuration, checked against the machine before anything starts."""

from __future__ import annotations

import os
from typing import Literal

import torch


def check_trainer(
    *,
    accelerator: Literal["auto", "cpu", "gpu"],
    devices: int,
    num_nodes: int,
    precision: Literal["32-true", "64-true", "16-mixed", "bf16-mixed"],
) -> str:
    """The accelerator that training will use; ValueError if this machine can't give what `conf/trainer` asks for."""
    if devices < 1 or num_nodes < 1:
        raise ValueError(f"`trainer.devices` and `trainer.num_nodes` must be at least 1, got {devices} and {num_nodes}")
    gpus = torch.cuda.device_count()
    chosen = accelerator if accelerator != "auto" else "gpu" if gpus else "cpu"
    available = gpus if chosen == "gpu" else os.cpu_count() or 1
    if devices > available:
        what = "GPUs" if chosen == "gpu" else "CPU cores"
        raise ValueError(f"`trainer.devices`={devices} is more than this machine has: {available} {what}")
    if precision == "16-mixed" and chosen == "cpu":
        raise ValueError("`trainer.precision`=16-mixed needs a GPU; a CPU has bf16-mixed")
    return chosen


def is_first_node(num_nodes: int) -> bool:
    """Whether this node is the one that keeps the record, where several run the same command; ValueError if it isn't
    said which it is."""
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK") if name not in os.environ]
    if num_nodes > 1 and missing:
        raise ValueError(f"`trainer.num_nodes`={num_nodes} needs the environment variables {', '.join(missing)}")
    return num_nodes == 1 or os.environ["NODE_RANK"] == "0"


def check_device(device: str) -> str:
    """`device` as it is; ValueError if this machine has no such device."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(f"`device`={device} can't be used here: {reason}") from None
    return device
