"""What the keys of `Options` do to the images that a data set has read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from lipcert.datasets.augmentation import Augmentation, RandomCrop
from lipcert.datasets.options import Options
from lipcert.datasets.sampling import in_proportion, in_turns, stream
from lipcert.datasets.split import Dataset, LabelNoise, Split

VAL, SUBSET, NOISE = 11, 12, 13  # keys of the random streams
MOST_CLASSES = 2**16


def assemble(
    name: str, options: Options, train: Split, test: Split, num_classes: int, val: Split | None = None
) -> Dataset:
    """The data set that `options` asks for.

    train, test: the images as published. val: validation images that are published too; `val_size` is then not used.
    Raises ValueError where they do not fit together, or the options do not fit them.
    """
    if not 2 <= num_classes <= MOST_CLASSES:
        wanted = f"a classifier needs 2 to {MOST_CLASSES:,}"
        raise ValueError(f"`dataset`: {name} has {num_classes} class{'es' * (num_classes != 1)}, and {wanted}")
    for role, split in (("training", train), ("validation", val), ("test", test)):
        if split is not None:
            _check_split(f"`dataset`: the {role} set of {name}", split, train, num_classes)
    if len(train.labels.unique()) == 1:
        raise ValueError(f"`dataset`: all training images of {name} have one label: a classifier needs two or more")
    if val is None:
        train, val = _hold_out(train, options)
    if options.subset is not None:
        if options.subset > len(train):
            raise ValueError(f"`dataset.subset` must be at most the {len(train)} training images, got {options.subset}")
        order = in_turns(train.labels, stream(options.seed, SUBSET))
        train = train.take(order[: options.subset].sort().values)
    train, noise = _add_label_noise(train, num_classes, options)
    augment = list(options.augment or ())
    if options.crop is not None:
        if options.crop > min(train.images.shape[2:]):
            sides = " x ".join(map(str, train.images.shape[2:]))
            raise ValueError(f"`dataset.crop` must be at most the images' side, {sides}, got {options.crop}")
        train, val, test = (replace(split, crop=options.crop) for split in (train, val, test))
        augment = _cropping(augment, options.crop)
    _check_augment(augment, train)
    eps = [float(radius) for radius in options.eps or ()]
    return Dataset(name, train, val, test, num_classes, noise, augment, eps, options.workers)


def _cropping(augment: Sequence[Augmentation], size: int) -> list[Augmentation]:
    """The augmentations with `size` in each random crop that has none, and a random crop first if there is none."""
    if not any(isinstance(item, RandomCrop) for item in augment):
        augment = [RandomCrop(), *augment]
    return [replace(item, size=size) if isinstance(item, RandomCrop) and not item.size else item for item in augment]


def _hold_out(train: Split, options: Options) -> tuple[Split, Split]:
    """The training images that remain, and the validation images that `val_size` takes from them."""
    size = options.val_size
    if size == 0:
        return train, train.take(torch.arange(0))
    count = size if isinstance(size, int) else round(size * len(train))
    if count >= len(train):
        raise ValueError(f"`dataset.val_size` must leave some of the {len(train)} training images, got {size}")
    order = in_proportion(train.labels, stream(options.seed, VAL))
    return train.take(order[count:].sort().values), train.take(order[:count].sort().values)


def _add_label_noise(train: Split, num_classes: int, options: Options) -> tuple[Split, LabelNoise]:
    count, generator = round(options.label_noise * len(train)), stream(options.seed, NOISE)
    indices = torch.randperm(len(train), generator=generator)[:count].sort().values
    labels = train.labels.clone()
    labels[indices] = torch.randint(num_classes, (count,), generator=generator)
    noise = LabelNoise(indices, train.labels[indices], labels[indices])
    return replace(train, labels=labels), noise


def _check_split(what: str, split: Split, train: Split, num_classes: int) -> None:
    if 0 in split.images.shape:
        raise ValueError(f"{what} is empty")
    least, most = int(split.labels.min()), int(split.labels.max())
    if least < 0 or most >= num_classes:
        allowed = f"{num_classes} classes are numbered from 0 to {num_classes - 1}"
        raise ValueError(f"{what} has labels from {least} to {most}, but {allowed}")
    if split.images.shape[1:] != train.images.shape[1:]:
        shapes = f"{tuple(split.images.shape[1:])}, but the training images {tuple(train.images.shape[1:])}"
        raise ValueError(f"{what} has images of shape {shapes}")


def _check_augment(augment: Sequence[Augmentation], train: Split) -> None:
    x = torch.zeros(1, *train.images.shape[1:])
    for item in augment:
        x = item(x, torch.zeros(1, item.draws))
    if not train.crop and tuple(x.shape[1:]) != train.input_shape:
        shapes = f"images of shape {tuple(x.shape[1:])} from images of shape {train.input_shape}"
        raise ValueError(f"`dataset.augment` makes {shapes}: set `dataset.crop`, so that test images are cropped too")
