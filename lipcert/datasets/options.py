"""The keys that every data set takes, and how the function of a data set comes to take them."""

from __future__ import annotations

import functools
import inspect
import math
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any

from lipcert.datasets.augmentation import Augmentation
from lipcert.datasets.checks import check
from lipcert.datasets.split import Dataset

COUNT = ("a positive integer or null", lambda v: v is None or index(v) > 0)
RADII = ("a list of finite numbers from 0", lambda v: all(0 <= radius < math.inf for radius in v or ()))
ALLOWED: dict[str, tuple[str, Callable[[Any], object]]] = {
    "data_dir": ("a folder", lambda v: Path(v).expanduser()),
    "seed": ("an integer from 0 to 2**63 - 1", lambda v: 0 <= index(v) < 2**63),
    "val_size": ("a count from 0 or a fraction below 1", lambda v: v >= 0 and (isinstance(v, int) or v < 1)),
    "subset": COUNT,
    "label_noise": ("a fraction from 0 to 1", lambda v: 0 <= v <= 1),
    "crop": COUNT,
    "augment": ("a list of augmentations", lambda v: all(isinstance(item, Augmentation) for item in v or ())),
    "eps": RADII,
    "eps_linf": RADII,
    "mean": ("a list of finite numbers or null", lambda v: all(map(math.isfinite, v or ()))),
    "std": ("a positive number or null", lambda v: v is None or 0 < v < math.inf),
    "workers": ("an integer from 0", lambda v: index(v) >= 0),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The keys that every data set takes. Wrong values are refused here, before anything is read.

    data_dir: the folder in which files are looked for, and to which they are downloaded.
    download: whether files that are missing may be downloaded.
    seed: fixes the choice of the validation images, of the subset and of the noisy labels, each independently.
    val_size: how many training images, or which fraction of them, become `val`, in proportion to the classes.
    subset: how many of the remaining images are kept for training, balanced over the classes; None: all.
    label_noise: the fraction of the training labels that are replaced by uniformly random ones, which may be the true
    ones.
    crop: a side in pixels: training crops at random, everything else at the centre; None: the whole image.
    augment: what training does to a batch, in this order.
    eps, eps_linf: the l2 and l_inf radii to report, for pixels in [0, 1].
    mean, std: the mean of each channel and one standard deviation for all, for pixels in [0, 1]; models refer to them.
    workers: how many processes read images that stay on disk.
    Raises ValueError.
    """

    data_dir: str | Path = "data"
    download: bool = True
    seed: int = 0
    val_size: float = 0
    subset: int | None = None
    label_noise: float = 0.0
    crop: int | None = None
    augment: Sequence[Augmentation] | None = ()
    eps: Sequence[float] | None = ()
    eps_linf: Sequence[float] | None = ()
    mean: Sequence[float] | None = None
    std: float | None = None
    workers: int = 0

    def __post_init__(self) -> None:
        for key, (wanted, allowed) in ALLOWED.items():
            check(f"dataset.{key}", getattr(self, key), wanted, allowed)

    @property
    def root(self) -> Path:
        return Path(self.data_dir).expanduser()


def with_options(read: Callable[..., Dataset]) -> Callable[..., Dataset]:
    """The function of a data set that takes the fields of `Options` as keywords.

    read: takes an `Options` first, and perhaps keywords of its own.
    Returns a function of the keywords of both. Its signature lists them with their types: configurations are checked
    against that.
    """
    shared = inspect.signature(Options).parameters

    @functools.wraps(read)
    def build(**keys: Any) -> Dataset:
        options = Options(**{key: keys.pop(key) for key in shared if key in keys})
        return read(options, **keys)

    own = list(inspect.signature(read).parameters.values())[1:]
    build.__signature__ = inspect.Signature([*own, *shared.values()], return_annotation=Dataset)  # type: ignore[attr-defined]
    build.__annotations__ = typing.get_type_hints(read) | typing.get_type_hints(Options)
    return build
