"""MNIST, and the other data sets that come as IDX files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor
from torchvision.datasets import MNIST
from torchvision.datasets.mnist import read_image_file, read_label_file

from lipcert.datasets.assemble import assemble
from lipcert.datasets.download import Archive, damaged, provide
from lipcert.datasets.options import Options, with_options
from lipcert.datasets.split import Dataset, Split
from lipcert.files import opened

LARGEST = 2**30  # bytes of a file; MNIST's largest has 47 million


@with_options
def mnist(options: Options) -> Dataset:
    """60,000 training and 10,000 test images (1, 28, 28) of 10 digits, from `data_dir`/MNIST/raw."""
    return from_idx("mnist", MNIST, options)


def from_idx(name: str, kind: type[MNIST], options: Options) -> Dataset:
    """The data set of the IDX files that torchvision's class `kind` names, from `data_dir`/<its name>/raw.

    Raises ValueError where the files are missing and can't be downloaded, or one is damaged.
    """
    folder = f"{kind.__name__}/raw"
    archives = [Archive(f"{folder}/{file}", kind.mirrors[0] + file, md5) for file, md5 in kind.resources]
    provide(options, [archive.path.removesuffix(".gz") for archive in archives], archives)
    train, test = (_split(options.root / folder, part) for part in ("train", "t10k"))
    return assemble(name, options, train, test, num_classes=10)


def _split(folder: Path, part: str) -> Split:
    images = _parsed(folder / f"{part}-images-idx3-ubyte", read_image_file)
    labels = _parsed(folder / f"{part}-labels-idx1-ubyte", read_label_file)
    try:
        return Split(images[:, None], labels)
    except ValueError as error:
        raise damaged(folder / f"{part}-*-ubyte", error) from None


def _parsed(path: Path, parse: Callable[[str], Tensor]) -> Tensor:
    try:
        with opened(path.resolve(), LARGEST):  # refuses what is no regular file, before the parser opens it
            return parse(str(path))
    except Exception as error:  # whatever the bytes made of the parser: AssertionError, KeyError, IndexError, ...
        raise damaged(path, error if str(error) else ValueError("its header is wrong")) from error
