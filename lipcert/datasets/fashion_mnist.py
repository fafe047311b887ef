"""Fashion-MNIST: the shape and the format of MNIST, with images that are harder to classify."""

from __future__ import annotations

from torchvision.datasets import FashionMNIST

from lipcert.datasets.mnist import from_idx
from lipcert.datasets.options import Options, with_options
from lipcert.datasets.split import Dataset


@with_options
def fashion_mnist(options: Options) -> Dataset:
    """60,000 training and 10,000 test images (1, 28, 28) of 10 kinds of clothes, from `data_dir`/FashionMNIST/raw."""
    return from_idx("fashion_mnist", FashionMNIST, options)
