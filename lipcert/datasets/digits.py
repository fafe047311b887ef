"""scikit-learn's digits: 1,797 real handwritten digits of 8 x 8 pixels that come with the package, no download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from lipcert.datasets.assemble import assemble
from lipcert.datasets.options import Options, with_options
from lipcert.datasets.sampling import in_proportion, stream
from lipcert.datasets.split import Dataset, Split


@with_options
def digits(options: Options) -> Dataset:
    """1,438 training and 359 test images (1, 8, 8) of 10 digits, divided in proportion to the classes.

    The division is the same for every seed. Pixels p in 0..16 become round(255 p / 16).
    """
    rows = torch.from_numpy(_rows())
    images = rows[:, :64].mul(255 / 16).round().to(torch.uint8).view(-1, 1, 8, 8)
    everything = Split(images, rows[:, 64].to(torch.int64))
    order = in_proportion(everything.labels, stream(0))
    held_out = round(0.2 * len(everything))
    test, train = everything.take(order[:held_out].sort().values), everything.take(order[held_out:].sort().values)
    return assemble("digits", options, train, test, num_classes=10)


def _rows() -> np.ndarray:
    """(1797, 65): the pixels of an image, 0..16, and its label.

    This is the file that `sklearn.datasets.load_digits` reads. To import scikit-learn takes a second.
    """
    package = find_spec("sklearn")
    assert package is not None and package.origin is not None
    return np.loadtxt(Path(package.origin).with_name("datasets") / "data" / "digits.csv.gz", delimiter=",")
