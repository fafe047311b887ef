"""scikit-learn's digits: 1,797 real handwritten digits of 8 x 8 pixels that come with the package, no download."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.datasets import load_digits

from lipcert.datasets.assemble import Options, assemble
from lipcert.datasets.sampling import in_proportion, stream
from lipcert.datasets.split import Dataset, Split


def digits(**shared: Any) -> Dataset:
    """1,438 training and 359 test images (1, 8, 8), divided in proportion to the classes and alike for every seed.

    Pixels come as 0..16 and become round(255 p / 16).
    """
    options = Options.of(shared)
    raw = load_digits()
    images = torch.from_numpy(raw.images).mul(255 / 16).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(raw.target).to(torch.int64)
    order = in_proportion(labels, stream(0))
    held = round(0.2 * len(labels))
    everything = Split(images, labels)
    test, train = everything.take(order[:held].sort().values), everything.take(order[held:].sort().values)
    return assemble("digits", options, train, test, num_classes=10)
