"""CIFAR-10 (lossless), and the reader that it shares with CIFAR-100."""

from __future__ import annotations

import warnings

import torch
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import check_integrity

from lipcert.datasets.assemble import assemble
from lipcert.datasets.download import Archive, damaged, provide
from lipcert.datasets.options import Options, with_options
from lipcert.datasets.split import Dataset, Split


@with_options
def cifar10(options: Options) -> Dataset:
    """50,000 training and 10,000 test images (3, 32, 32) of 10 classes, from `data_dir`/cifar-10-batches-py."""
    return from_pickles("cifar10", CIFAR10, options, num_classes=10)


def from_pickles(name: str, kind: type[CIFAR10], options: Options, num_classes: int) -> Dataset:
    """The data set that torchvision's class `kind` reads. It checks the MD5 sum of every file before it opens one.

    Raises ValueError where the files are missing and can't be downloaded, or one is damaged.
    """
    folder = options.root / kind.base_folder
    sums = dict([*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])])
    archive = Archive(kind.filename, kind.url, kind.tgz_md5)
    provide(options, [f"{kind.base_folder}/{file}" for file in sums], [archive])
    try:
        with warnings.catch_warnings():
            # The pickles are older than NumPy's present arguments of dtype; they load the same.
            warnings.filterwarnings("ignore", message=".*align should be passed")
            train, test = (_split(kind(options.root, train=train)) for train in (True, False))
    except Exception as error:
        file = next((file for file, md5 in sums.items() if not check_integrity(folder / file, md5)), "")
        raise damaged(folder / file, error) from error
    return assemble(name, options, train, test, num_classes)


def _split(raw: CIFAR10) -> Split:
    images = torch.from_numpy(raw.data).permute(0, 3, 1, 2).contiguous()
    return Split(images, torch.tensor(raw.targets, dtype=torch.int64))
