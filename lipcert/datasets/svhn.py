"""SVHN: house numbers, cropped to one digit."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import SVHN
from torchvision.datasets.utils import check_integrity

from lipcert.datasets.assemble import Options, assemble
from lipcert.datasets.download import provide, read
from lipcert.datasets.split import Dataset, Split


def svhn(*, extra: bool = False, **shared: Any) -> Dataset:
    """73,257 training and 26,032 test images (3, 32, 32) of 10 digits, from `data_dir`/{train,test}_32x32.mat.

    extra: 531,131 easier images more to train on (1.3 GB).
    """
    options = Options.of(shared)
    parts = [_read(part, options) for part in (("train", "extra") if extra else ("train",))]
    train = Split(torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts]))
    return assemble("svhn", options, train, Split(*_read("test", options)), num_classes=10)


def _read(part: str, options: Options) -> tuple[Tensor, Tensor]:
    address, file, md5 = SVHN.split_list[part]
    provide(options.root, [file], {file: [address]}, lambda: SVHN(options.root, part, download=True))

    def load() -> tuple[Tensor, Tensor]:
        raw = SVHN(options.root, part)
        images, labels = torch.from_numpy(np.ascontiguousarray(raw.data)), torch.from_numpy(np.atleast_1d(raw.labels))
        Split(images, labels)  # refuses what doesn't fit together, while the file can still be named
        return images, labels

    return read(load, [options.root / file], lambda path: check_integrity(path, md5))
