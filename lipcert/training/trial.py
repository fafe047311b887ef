"""A first try of what will be trained, before anything is written."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from lipcert.datasets import batches
from lipcert.datasets.split import Dataset
from lipcert.errors import CAUSED_BY_VALUES, blamed, one_line
from lipcert.frozen.exact import exact_arithmetic
from lipcert.frozen.freeze import freeze


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


def try_certificate(certificate: Any, network: Any, schedule: Any, dataset: Dataset) -> None:
    """ValueError where a certificate proves nothing of a network as its schedule leaves it in the end; with
    `schedule.keep=best`, also as it is after the first epoch, whose weights may be kept."""

    def certified(epoch: float) -> None:
        schedule.apply(epoch, model=network)
        with exact_arithmetic():
            certificate(freeze(network, dataset.input_shape, getattr(network, "norm", "l2")))

    certified(schedule.epochs)
    if schedule.keep == "best" and any(ramp.owner == "model" for ramp in schedule.ramps.values()):
        try:
            certified(1.0)
        except ValueError as error:
            raise ValueError(f"`schedule.keep`=best may keep an epoch of which nothing is proved: {error}") from None
