"""CIFAR-10 (lossless), and CIFAR-100 by the same reader."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import check_integrity

from lipcert.datasets.assemble import Options, assemble
from lipcert.datasets.download import provide, read
from lipcert.datasets.split import Dataset, Split


def cifar10(**shared: Any) -> Dataset:
    """50,000 training and 10,000 test images (3, 32, 32) of 10 classes, from `data_dir`/cifar-10-batches-py."""
    return from_pickles("cifar10", CIFAR10, Options.of(shared), num_classes=10)


def from_pickles(name: str, kind: type[CIFAR10], options: Options, num_classes: int) -> Dataset:
    """The data set that `kind` reads; it checks every file's MD5 before it opens one."""
    sums = dict([*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])])
    files = [f"{kind.base_folder}/{file}" for file in sums]
    paths = [options.root / file for file in files]

    def load(train: bool, download: bool = False) -> CIFAR10:
        with warnings.catch_warnings():
            # The pickles are older than NumPy's present arguments of dtype; they load the same.
            warnings.filterwarnings("ignore", message=".*align should be passed")
            return kind(options.root, train=train, download=download)

    def split(train: bool) -> Split:
        raw = load(train)
        images = torch.from_numpy(raw.data).permute(0, 3, 1, 2).contiguous()
        return Split(images, torch.tensor(raw.targets, dtype=torch.int64))

    def probe(path: Path) -> bool:
        return check_integrity(path, sums[path.name])

    provide(options.root, files, {kind.filename: [kind.url]}, lambda: load(train=True, download=True))
    train = read(lambda: split(train=True), paths, probe)
    test = read(lambda: split(train=False), paths, probe)
    return assemble(name, options, train, test, num_classes)
