"""The angle between the gradient of the loss and its sign: how far an FGSM step is from the steepest one in l2."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from functools import partial

from lipcert.datasets import batches
from lipcert.datasets.split import Split
from lipcert.frozen.exact import exact, images_at_once
from lipcert.frozen.gradients import sign_cosines
from lipcert.frozen.network import Network
from lipcert.progress import track


def cosines(network: Network, images: Split, classes: int, device: str, batch_size: int) -> list[float]:
    """One cosine an image, in their order, NaN where the loss has no gradient (`frozen.gradients.sign_cosines`).

    network     a float64 network
    images      with labels of so many `classes`
    device      where gradients are computed
    batch_size  how many images at once, at most
    """
    observe = partial(sign_cosines, network.on(device))
    loader = batches(images, images_at_once(classes, images.input_shape, device, batch_size), device=device)
    return [value for x, y in track(loader, "angles", len(loader)) for value in observe(exact(x), y).tolist()]


def angle_statistics(found: Iterable[float]) -> dict[str, float | None]:
    """The smallest cosine and their mean, each None if no image has a gradient, which NaN stands for."""
    known = [value for value in found if not math.isnan(value)]
    return {
        "smallest_cosine": min(known, default=None),
        "mean_cosine": statistics.fmean(known) if known else None,
    }
