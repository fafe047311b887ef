"""MNIST, and whatever else comes as IDX files by torchvision's class for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torchvision.datasets import MNIST
from torchvision.datasets.mnist import read_image_file, read_label_file

from lipcert.datasets.assemble import Options, assemble
from lipcert.datasets.download import provide, read
from lipcert.datasets.split import Dataset, Split


def mnist(**shared: Any) -> Dataset:
    """60,000 training and 10,000 test images (1, 28, 28) of 10 digits, from `data_dir`/MNIST/raw."""
    return from_idx("mnist", MNIST, Options.of(shared))


def from_idx(name: str, kind: type[MNIST], options: Options) -> Dataset:
    """The data set that `kind` reads from the IDX files under `data_dir`/<name of the class>/raw."""
    folder = f"{kind.__name__}/raw"
    archives = {f"{folder}/{file}": [mirror + file for mirror in kind.mirrors] for file, _ in kind.resources}
    files = [archive.removesuffix(".gz") for archive in archives]
    provide(options.root, files, archives, lambda: kind(options.root, download=True))
    train = _split(kind, options.root, files, train=True)
    test = _split(kind, options.root, files, train=False)
    return assemble(name, options, train, test, num_classes=10)


def _split(kind: type[MNIST], root: Path, files: list[str], train: bool) -> Split:
    own = [root / file for file in files if ("t10k" not in file) == train]

    def load() -> Split:
        raw = kind(root, train=train)
        return Split(raw.data[:, None], raw.targets)

    return read(load, own, lambda file: read_image_file(file) if "idx3" in file.name else read_label_file(file))
