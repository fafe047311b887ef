"""scale=smoke: every row of every table in seconds, on images of noise in the shape of the row's data set.

It shows that a row composes, trains, is certified and attacked, and that its columns get numbers; these mean nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lipcert import files

SHAPES = {  # (side, channels, classes) by the name of a data set
    "mnist": (28, 1, 10),
    "fashion_mnist": (28, 1, 10),
    "cifar10": (32, 3, 10),
    "cifar100": (32, 3, 100),
    "svhn": (32, 3, 10),
    "tiny_imagenet": (64, 3, 200),
}
TRAINED, TESTED = 24, 6  # images
