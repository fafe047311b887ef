"""TinyImageNet: 200 classes of ImageNet at 64 x 64 pixels."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset
from torchvision.datasets.utils import download_and_extract_archive

from lipcert.datasets.assemble import Options
from lipcert.datasets.download import provide
from lipcert.datasets.image_folder import Labelled, from_files
from lipcert.datasets.split import Dataset

FOLDER = "tiny-imagenet-200"
FILES = [f"{FOLDER}/{file}" for file in ("wnids.txt", "train", "val/images", "val/val_annotations.txt")]
ADDRESS = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"


def tiny_imagenet(*, memory_limit_mb: float = 2000, **shared: Any) -> Dataset:
    """100,000 training images (3, 64, 64) of 200 classes, from `data_dir`/tiny-imagenet-200.

    Its 10,000 validation images are the test set, for the official test labels were never published. Classes are
    numbered by their sorted WordNet names. A set above `memory_limit_mb` stays on disk.
    """
    options = Options.of(shared)
    root = options.root / FOLDER
    provide(options.root, FILES, {f"{FOLDER}.zip": [ADDRESS]}, lambda: _download(options.root))
    names = root / "wnids.txt"
    classes = {name: number for number, name in enumerate(sorted(names.read_text().split()))}
    if not classes:
        raise ValueError(f"{names} is empty")
    train = make_dataset(str(root / "train"), classes, extensions=IMG_EXTENSIONS, allow_empty=True)
    splits = {"train": train, "test": _annotated(root / "val", classes)}
    return from_files("tiny_imagenet", options, splits, len(classes), None, "RGB", memory_limit_mb)


def _download(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as fresh:
        download_and_extract_archive(ADDRESS, str(root), fresh, md5=MD5)
        # The folder appears whole or not at all: nobody would notice that half of its images are missing.
        (Path(fresh) / FOLDER).rename(root / FOLDER)


def _annotated(folder: Path, classes: dict[str, int]) -> Labelled:
    annotations = folder / "val_annotations.txt"
    labelled = []
    for number, line in enumerate(annotations.read_text().splitlines(), start=1):
        file, name = (*line.split("\t"), "", "")[:2]
        if name not in classes:
            raise ValueError(f"{annotations}, line {number}: {name!r} is no class of wnids.txt")
        labelled.append((str(folder / "images" / file), classes[name]))
    return labelled
