"""TinyImageNet: 200 classes of ImageNet at 64 x 64 pixels."""

from __future__ import annotations

from pathlib import Path

from lipcert.datasets.download import Archive, provide
from lipcert.datasets.image_folder import Labelled, from_files, labelled_files
from lipcert.datasets.options import Options, with_options
from lipcert.datasets.split import Dataset
from lipcert.files import read_regular

FOLDER = "tiny-imagenet-200"
FILES = [f"{FOLDER}/{file}" for file in ("wnids.txt", "train", "val/images", "val/val_annotations.txt")]
ADDRESS = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"


@with_options
def tiny_imagenet(options: Options, *, memory_limit_mb: float = 2000) -> Dataset:
    """100,000 training images (3, 64, 64) of 200 classes, from `data_dir`/tiny-imagenet-200.

    Its 10,000 validation images are the test set, because the labels of the test images were never published. Classes
    are numbered by their sorted WordNet names.
    memory_limit_mb: a larger set stays on disk.
    """
    root = options.root / FOLDER
    provide(options, FILES, [Archive(f"{FOLDER}.zip", ADDRESS, MD5)])
    names = root / "wnids.txt"
    classes = {name: number for number, name in enumerate(sorted(_text(names).split()))}
    if not classes or not all(map(str.isalnum, classes)):
        raise ValueError(f"{names} must list the names of classes: delete it, and it will be downloaded again")
    splits = {"train": labelled_files(root / "train", classes), "test": _annotated(root / "val", classes)}
    return from_files("tiny_imagenet", options, splits, classes, None, "RGB", memory_limit_mb)


def _annotated(folder: Path, classes: dict[str, int]) -> Labelled:
    annotations = folder / "val_annotations.txt"
    labelled = []
    for number, line in enumerate(_text(annotations).splitlines(), start=1):
        file, name = (*line.split("\t"), "", "")[:2]
        if name not in classes or Path(file).name != file:
            raise ValueError(f"{annotations}, line {number}: {line[:80]!r} is no file name and a class of wnids.txt")
        labelled.append((str(folder / "images" / file), classes[name]))
    return labelled


def _text(path: Path) -> str:
    return read_regular(path.resolve(), 2**24).decode(errors="replace")
