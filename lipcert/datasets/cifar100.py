"""CIFAR-100 (lossless), with its 100 fine labels."""

from __future__ import annotations

from torchvision.datasets import CIFAR100

from lipcert.datasets.cifar10 import from_pickles
from lipcert.datasets.options import Options, with_options
from lipcert.datasets.split import Dataset


@with_options
def cifar100(options: Options) -> Dataset:
    """50,000 training and 10,000 test images (3, 32, 32) of 100 classes, from `data_dir`/cifar-100-python."""
    return from_pickles("cifar100", CIFAR100, options, num_classes=100)
