"""The keys that all data sets share, and what they do to the images that one of them has read."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lipcert.datasets.augmentation import Augmentation, RandomCrop
from lipcert.datasets.sampling import in_proportion, in_turns, stream
from lipcert.datasets.split import Dataset, LabelNoise, Split

VAL, SUBSET, NOISE = 11, 12, 13  # keys of the random streams


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every data set's configuration may say. Wrong values are errors here, before anything is read.

    data_dir: where files are looked for and downloaded to.
    seed: fixes the choice of validation images, of the subset and of the noisy labels, each by itself.
    val_size: how many training images, or which fraction of them, become `val`, in proportion to the classes.
    subset: how many of the others are kept for training, balanced over the classes; None: all.
    label_noise: the fraction of training labels replaced by uniformly random ones, which may be the true ones.
    crop: a side: training crops at random, everything else from the centre; None: the whole image.
    augment: what training does to a batch, in order. eps: the radii to report, in pixels of [0, 1].
    radius, c, eps_linf, eps_train, eps_ibp, mean, std, epochs, batch_size: what models, losses, attacks and schedules
    take from here if they don't say otherwise: l2 radii to train for (c: by LMT), l_inf radii to report, l_inf radii to
    train margins and boxes for, the pixels' mean a channel and one std for all.
    workers: kept for whoever iterates.
    """

    data_dir: str | Path = "data"
    seed: int = 0
    val_size: float = 0
    subset: int | None = None
    label_noise: float = 0.0
    crop: int | None = None
    augment: Sequence[Augmentation] | None = ()
    eps: Sequence[float] | None = ()
    radius: float | None = None
    eps_linf: Sequence[float] | None = ()
    eps_train: float | None = None
    eps_ibp: float | None = None
    c: float | None = None
    mean: Sequence[float] | None = None
    std: float | None = None
    epochs: int | None = None
    batch_size: int | None = None
    workers: int = 0

    def __post_init__(self) -> None:
        _check("data_dir", self.data_dir, (str, Path), "a folder", lambda v: True)
        _check("seed", self.seed, int, "an integer from 0", lambda v: v >= 0)
        _check("val_size", self.val_size, (int, float), "a count from 0 or a fraction below 1", _is_size)
        _check("label_noise", self.label_noise, (int, float), "a fraction from 0 to 1", lambda v: 0 <= v <= 1)
        _check("workers", self.workers, int, "an integer from 0", lambda v: v >= 0)
        for key in ("subset", "crop", "epochs", "batch_size"):
            value = getattr(self, key)
            if value is not None:
                _check(key, value, int, "a positive integer or null", lambda v: v > 0)
        for key in ("radius", "c", "eps_train", "eps_ibp", "std"):
            value = getattr(self, key)
            if value is not None:
                _check(key, value, (int, float), "a positive number or null", lambda v: 0 < v < math.inf)
        for key in ("eps", "eps_linf"):
            for radius in getattr(self, key) or ():
                _check(key, radius, (int, float), "radii from 0", lambda v: 0 <= v < math.inf)
        for item in self.augment or ():
            if not isinstance(item, Augmentation):
                raise ValueError(f"`dataset.augment` must list lipcert.datasets.augmentation's, got {item!r}")

    @classmethod
    def of(cls, keys: Mapping[str, Any]) -> Options:
        """The options of a configuration's keys; ValueError for one that is none."""
        known = [item.name for item in fields(cls)]
        for key in keys:
            if key not in known:
                close = difflib.get_close_matches(key, known, 1)
                meant = f": did you mean `{close[0]}`?" if close else f" (shared keys: {', '.join(known)})"
                raise ValueError(f"`dataset.{key}` is not a key of this data set{meant}")
        return cls(**keys)

    @property
    def root(self) -> Path:
        return Path(self.data_dir).expanduser()


def assemble(
    name: str, options: Options, train: Split, test: Split, num_classes: int, val: Split | None = None
) -> Dataset:
    """The data set that `options` asks for. A `val` of its own is kept; `val_size` is then not used."""
    for role, split in (("training", train), ("validation", val), ("test", test)):
        if split is not None:
            _check_split(f"{name}: the {role} set", split, train, num_classes)
    if val is None:
        train, val = _hold_out(train, options)
    if options.subset is not None:
        if options.subset > len(train):
            raise ValueError(f"`dataset.subset` must be at most the {len(train)} training images, got {options.subset}")
        order = in_turns(train.labels, stream(options.seed, SUBSET))
        train = train.take(order[: options.subset].sort().values)
    train, noise = _scramble(train, num_classes, options)
    augment = list(options.augment or ())
    if options.crop is not None:
        if options.crop > min(train.images.shape[2:]):
            raise ValueError(f"`dataset.crop` {options.crop} exceeds the images, {tuple(train.images.shape[2:])}")
        train, val, test = (replace(split, crop=options.crop) for split in (train, val, test))
        augment = _cropping(augment, options.crop)
    _check_augment(augment, train)
    eps = [float(radius) for radius in options.eps or ()]
    return Dataset(name, train, val, test, num_classes, noise, augment, eps, options.workers)


def _cropping(augment: Sequence[Augmentation], size: int) -> list[Augmentation]:
    """With the side filled in wherever a random crop leaves it open; with such a crop in front where there is none."""
    if not any(isinstance(item, RandomCrop) for item in augment):
        augment = [RandomCrop(), *augment]
    return [replace(item, size=size) if isinstance(item, RandomCrop) and not item.size else item for item in augment]


def _hold_out(train: Split, options: Options) -> tuple[Split, Split]:
    size = options.val_size
    if size == 0:
        return train, train.take(torch.arange(0))
    count = size if isinstance(size, int) else round(size * len(train))
    if count >= len(train):
        raise ValueError(f"`dataset.val_size` must leave some of the {len(train)} training images, got {size}")
    order = in_proportion(train.labels, stream(options.seed, VAL))
    return train.take(order[count:].sort().values), train.take(order[:count].sort().values)


def _scramble(train: Split, num_classes: int, options: Options) -> tuple[Split, LabelNoise]:
    count, generator = round(options.label_noise * len(train)), stream(options.seed, NOISE)
    indices = torch.randperm(len(train), generator=generator)[:count].sort().values
    labels = train.labels.clone()
    labels[indices] = torch.randint(num_classes, (count,), generator=generator)
    noise = LabelNoise(indices, train.labels[indices], labels[indices])
    return replace(train, labels=labels), noise


def _check_split(what: str, split: Split, train: Split, num_classes: int) -> None:
    if len(split) == 0:
        raise ValueError(f"{what} is empty")
    check_labels(what, split.labels, num_classes)
    if split.images.shape[1:] != train.images.shape[1:]:
        shapes = f"{tuple(split.images.shape[1:])}, the training images {tuple(train.images.shape[1:])}"
        raise ValueError(f"{what} has images of shape {shapes}")


def _check_augment(augment: Sequence[Augmentation], train: Split) -> None:
    x = torch.zeros(1, *train.images.shape[1:])
    for item in augment:
        x = item(x, torch.zeros(1, item.draws))
    if not train.crop and tuple(x.shape[1:]) != train.input_shape:
        shapes = f"{tuple(x.shape[1:])} of images {train.input_shape}"
        raise ValueError(f"`dataset.augment` makes {shapes}: say `dataset.crop`, so that test images are cropped too")


def check_labels(what: str, labels: Tensor, num_classes: int) -> None:
    least, most = int(labels.min()), int(labels.max())
    if least < 0 or most >= num_classes:
        raise ValueError(f"{what} has labels from {least} to {most}, but {num_classes} classes: 0 to {num_classes - 1}")


def _is_size(value: Any) -> bool:
    return value >= 0 and (isinstance(value, int) or value < 1)


def _check(key: str, value: Any, kind: type | tuple[type, ...], wanted: str, allowed: Any) -> None:
    if not isinstance(value, kind) or isinstance(value, bool) or not allowed(value):
        raise ValueError(f"`dataset.{key}` must be {wanted}, got {value!r}")
