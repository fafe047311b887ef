"""SVHN: house numbers, cropped to one digit."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import SVHN

from lipcert.datasets.assemble import assemble
from lipcert.datasets.download import Archive, damaged, provide
from lipcert.datasets.options import Options, with_options
from lipcert.datasets.split import Dataset, Split


@with_options
def svhn(options: Options, *, extra: bool = False) -> Dataset:
    """73,257 training and 26,032 test images (3, 32, 32) of 10 digits, from `data_dir`/{train,test}_32x32.mat.

    extra: train on 531,131 easier images too (1.3 GB).
    """
    parts = [_read(part, options) for part in (("train", "extra") if extra else ("train",))]
    train = Split(torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts]))
    return assemble("svhn", options, train, Split(*_read("test", options)), num_classes=10)


def _read(part: str, options: Options) -> tuple[Tensor, Tensor]:
    address, file, md5 = SVHN.split_list[part]
    provide(options, [file], [Archive(file, address, md5)])
    try:
        raw = SVHN(options.root, part)
        images, labels = torch.from_numpy(np.ascontiguousarray(raw.data)), torch.from_numpy(np.atleast_1d(raw.labels))
        Split(images, labels)  # refuses what does not fit together, while the file can still be named
        return images, labels
    except Exception as error:  # another MD5 sum; or whatever the bytes made of the parser
        raise damaged(options.root / file, error) from error
