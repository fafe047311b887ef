"""Your own images: one folder a split, one folder a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from lipcert.datasets.assemble import Options, assemble
from lipcert.datasets.files import ImageFiles, image_files
from lipcert.datasets.split import Dataset, Split

Labelled = Sequence[tuple[str, int]]  # paths and their labels


def image_folder(
    *,
    path: str | None = None,
    name: str = "image_folder",
    image_size: int | None = None,
    mode: str | None = None,
    memory_limit_mb: float = 2000,
    **shared: Any,
) -> Dataset:
    """Images `path`/{train,test}/<class>/*, and `path`/val/<class>/* where there is one (`val_size` is then not used).

    path: the folder; None: `data_dir`. Classes are numbered by their folders' names in train/, sorted.
    image_size: scale every image to cover this side and keep its centre; None: all must be of one size.
    mode: "L" (grey, C = 1) or "RGB"; None: as the first training image. Alpha is dropped.
    memory_limit_mb: larger sets stay on disk and are read batch by batch by `workers` processes.
    """
    options = Options.of(shared)
    root = Path(path).expanduser() if path else options.root
    folders = {part: root / part for part in ("train", "val", "test") if part != "val" or (root / part).is_dir()}
    absent = next((folder for folder in folders.values() if not folder.is_dir()), None)
    if absent is not None:
        layout = "it must hold train/<class>/* and test/<class>/*: set `dataset.path=` or `data_dir=`"
        raise ValueError(f"{absent} is not a folder; {layout}")
    classes = {folder.name: number for number, folder in enumerate(_classes(folders["train"]))}
    splits = {part: _labelled(folder, classes) for part, folder in folders.items()}
    return from_files(name, options, splits, len(classes), image_size, mode, memory_limit_mb)


def from_files(
    name: str,
    options: Options,
    splits: Mapping[str, Labelled],
    num_classes: int,
    image_size: int | None,
    mode: str | None,
    memory_limit_mb: float,
) -> Dataset:
    """The data set of labelled files, `splits` train, test and perhaps val; in memory if its images all fit."""
    for part, labelled in splits.items():
        if not labelled:
            raise ValueError(f"{name}: the {part} set is empty")
    like = image_files([file for file, _ in splits["train"]], image_size, mode)
    found = {
        part: Split(replace(like, paths=[file for file, _ in labelled]), torch.tensor([label for _, label in labelled]))
        for part, labelled in splits.items()
    }
    dataset = assemble(name, options, found["train"], found["test"], num_classes, found.get("val"))
    chosen = (dataset.train, dataset.val, dataset.test)
    if sum(torch.Size(split.images.shape).numel() for split in chosen) > memory_limit_mb * 1e6:
        return dataset
    train, val, test = (_in_memory(split, f"reading {name}") for split in chosen)
    return replace(dataset, train=train, val=val, test=test)


def _in_memory(split: Split, description: str) -> Split:
    assert isinstance(split.images, ImageFiles)
    return replace(split, images=split.images.in_memory(description))


def _classes(folder: Path) -> list[Path]:
    found = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    if not found:
        raise ValueError(f"{folder} has no class folders: put its images in {folder}/<class>/")
    return found


def _labelled(folder: Path, classes: Mapping[str, int]) -> Labelled:
    strange = [entry.name for entry in _classes(folder) if entry.name not in classes]
    if strange:
        raise ValueError(f"{folder} has a class {strange[0]!r} that the training folder lacks")
    return make_dataset(str(folder), dict(classes), extensions=IMG_EXTENSIONS, allow_empty=True)
