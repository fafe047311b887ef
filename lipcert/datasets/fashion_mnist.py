"""Fashion-MNIST: MNIST's shape and format, harder images."""

from __future__ import annotations

from typing import Any

from torchvision.datasets import FashionMNIST

from lipcert.datasets.assemble import Options
from lipcert.datasets.mnist import from_idx
from lipcert.datasets.split import Dataset


def fashion_mnist(**shared: Any) -> Dataset:
    """60,000 training and 10,000 test images (1, 28, 28) of 10 kinds of clothes, from `data_dir`/FashionMNIST/raw."""
    return from_idx("fashion_mnist", FashionMNIST, Options.of(shared))
