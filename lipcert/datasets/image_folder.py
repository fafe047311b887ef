"""Your own images: one folder for each split, and in it one folder for each class."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torchvision.datasets.folder import IMG_EXTENSIONS

from lipcert.datasets.assemble import assemble
from lipcert.datasets.checks import check
from lipcert.datasets.files import ImageFiles, image_files
from lipcert.datasets.options import Options, with_options
from lipcert.datasets.split import Dataset, Split

Labelled = Sequence[tuple[str, int]]  # paths and their labels
DEEPEST = 16  # how many folders deep images are looked for


@with_options
def image_folder(
    options: Options,
    *,
    path: str | None = None,
    name: str = "image_folder",
    image_size: int | None = None,
    mode: str | None = None,
    memory_limit_mb: float = 2000,
) -> Dataset:
    """Images `path`/{train,test}/<class>/*, and `path`/val/<class>/* if there are any (`val_size` is then not used).

    path: the folder; None: `data_dir`. Classes are numbered by the names of their folders in train/, sorted.
    name: what tables call the data set.
    image_size: the side that every image is scaled to cover, its centre being kept; None: all must be of one size.
    mode: "L" (grey, C = 1) or "RGB"; None: as the first training image. Alpha channels are dropped.
    memory_limit_mb: larger sets stay on disk and are read batch by batch by `workers` processes.
    Raises ValueError where the folders are not like that, or a file is no image.
    """
    check("dataset.path", path, "a folder or null", lambda v: v is None or Path(v).expanduser())
    root = Path(path).expanduser() if path else options.root
    folders = {part: root / part for part in ("train", "val", "test") if part != "val" or os.path.isdir(root / part)}
    absent = next((folder for folder in folders.values() if not os.path.isdir(folder)), None)
    if absent is not None:
        wanted = f"{root} must hold train/<class>/* and test/<class>/*"
        raise ValueError(f"{absent} is not a folder, but {wanted}: set `dataset.path=` or `data_dir=`")
    classes = {name: number for number, name in enumerate(_class_names(folders["train"]))}
    splits = {}
    for part, folder in folders.items():
        unknown = next((name for name in _class_names(folder) if name not in classes), None)
        if unknown:
            raise ValueError(f"{folder} has a class {unknown!r} that the training folder lacks")
        splits[part] = labelled_files(folder, classes)
    return from_files(name, options, splits, classes, image_size, mode, memory_limit_mb)


def labelled_files(folder: Path, classes: Mapping[str, int]) -> Labelled:
    """The image files below `folder`/<class>, sorted by class, folder and name, each with the number of its class.

    Raises ValueError where one is no regular file, where there is a link to a folder, or where folders lie too deep.
    """
    named = sorted(classes.items())
    return [(file, number) for name, number in named if (folder / name).is_dir() for file in _images(folder / name)]


def from_files(
    name: str,
    options: Options,
    splits: Mapping[str, Labelled],
    classes: Mapping[str, int],
    image_size: int | None,
    mode: str | None,
    memory_limit_mb: float,
) -> Dataset:
    """The data set of labelled files; in memory if all its images fit into `memory_limit_mb`.

    splits: those of "train", "test" and perhaps "val". classes: their names and numbers.
    image_size, mode: as `image_files` takes them. Raises ValueError as `image_folder` does.
    """
    check("dataset.memory_limit_mb", memory_limit_mb, "a number from 0", lambda v: 0 <= v < math.inf)
    empty = next((part for part, labelled in splits.items() if not labelled), None)
    if empty:
        raise ValueError(f"`dataset`: the {empty} set of {name} is empty")
    trained = {label for _, label in splits["train"]}
    unseen = next((each for each, number in classes.items() if number not in trained), None)
    if unseen is not None:
        raise ValueError(f"`dataset`: the class {unseen!r} of {name} has no training images: add some, or remove it")
    like = image_files([file for file, _ in splits["train"]], image_size, mode)
    found = {
        part: Split(replace(like, paths=[file for file, _ in labelled]), torch.tensor([label for _, label in labelled]))
        for part, labelled in splits.items()
    }
    dataset = assemble(name, options, found["train"], found["test"], len(classes), found.get("val"))
    chosen = (dataset.train, dataset.val, dataset.test)
    if sum(torch.Size(split.images.shape).numel() for split in chosen) > memory_limit_mb * 1e6:
        return dataset
    train, val, test = (_in_memory(split, f"reading {name}") for split in chosen)
    return replace(dataset, train=train, val=val, test=test)


def _in_memory(split: Split, description: str) -> Split:
    assert isinstance(split.images, ImageFiles)
    return replace(split, images=split.images.in_memory(description))


def _class_names(folder: Path) -> list[str]:
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if not names:
        raise ValueError(f"{folder} has no class folders: put its images in {folder}/<class>/")
    return names


def _images(folder: Path) -> list[str]:
    found = []
    for parent, folders, files in os.walk(folder, onerror=_refuse):
        if len(Path(parent).relative_to(folder).parts) > DEEPEST:
            raise ValueError(f"{folder} has folders that lie more than {DEEPEST} deep: move their images up")
        link = next((name for name in folders if os.path.islink(os.path.join(parent, name))), None)
        if link:
            raise ValueError(f"{os.path.join(parent, link)} is a link to a folder: put the images themselves there")
        paths = [os.path.join(parent, name) for name in files if name.lower().endswith(IMG_EXTENSIONS)]
        irregular = next((path for path in paths if not os.path.isfile(path)), None)
        if irregular:
            raise ValueError(f"{irregular} is not a regular file, nor a link to one: remove it")
        found += paths
    return sorted(found, key=os.path.split)


def _refuse(error: OSError) -> None:
    raise ValueError(f"{error.filename} can't be read: {error.strerror}")
