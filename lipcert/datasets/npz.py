"""Your own arrays: one NumPy archive."""

from __future__ import annotations

import os
import warnings
import zipfile
from operator import index
from pathlib import Path

import numpy as np
import torch

from lipcert.datasets.assemble import assemble
from lipcert.datasets.checks import check
from lipcert.datasets.options import Options, with_options
from lipcert.datasets.split import Dataset, Split
from lipcert.errors import one_line
from lipcert.files import opened

LAYOUTS = ("NHWC", "NCHW")
CHANNELS = (1, 3)
NEEDED = ("x_train", "y_train", "x_test", "y_test")
LARGEST = 2**33  # bytes of all arrays


@with_options
def npz(
    options: Options,
    *,
    path: str | None = None,
    name: str = "npz",
    layout: str | None = None,
    num_classes: int | None = None,
) -> Dataset:
    """Images x_train, x_test (and x_val) with labels y_train, y_test (and y_val) from the archive at `path`.

    Images are integers in 0..255, or floats in [0, 1] that are multiples of 1/255 to within 1e-6: (N, H, W) if grey,
    else as `layout` says. Labels are integers (N,) from 0. With x_val in the archive, `val_size` is not used.
    name: what tables call the data set.
    layout: "NHWC" or "NCHW"; None: the axis with 1 or 3 entries holds the channels, if only one of the two has.
    num_classes: None: one more than the largest label, and each class must have training images.
    Raises ValueError where the archive does not hold that. Pickled arrays are refused.
    """
    check("dataset.layout", layout, "NHWC, NCHW or null", lambda v: v in (None, *LAYOUTS))
    check("dataset.num_classes", num_classes, "an integer from 2 or null", lambda v: v is None or index(v) >= 2)
    wanted = f"a file with {', '.join(NEEDED)}"
    check("dataset.path", path, wanted, lambda v: v and Path(v).expanduser())
    arrays = _arrays(Path(str(path)).expanduser())
    splits = {}
    for part in ("train", "test", "val"):
        if part == "val" and "x_val" not in arrays:
            continue
        where = f"{path}: x_{part}"
        images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if labels.dtype.kind not in "iu":
            raise ValueError(f"{path}: y_{part} must hold integers, got {labels.dtype}")
        if images.size == 0:
            raise ValueError(f"{where} is empty")
        pixels = torch.from_numpy(_channels_first(_pixels(images, where), layout, where))
        try:
            splits[part] = Split(pixels, torch.from_numpy(labels.astype(np.int64)))
        except ValueError as error:
            raise ValueError(f"{where} and y_{part}: {error}") from None
    if num_classes is None:
        num_classes = _counted(splits, f"{path}: y_train")
    return assemble(name, options, splits["train"], splits["test"], num_classes, splits.get("val"))


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays by name; only those that are used are read."""
    if not os.path.isfile(path):  # unlike `path.is_file()` false for a name that is too long
        raise ValueError(f"{path} is not a file: set `dataset.path=`")
    try:
        with opened(path.resolve(), LARGEST) as file, zipfile.ZipFile(file) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            wanted = [*NEEDED, *(("x_val", "y_val") if "x_val" in members else ())]
            absent = next((key for key in wanted if key not in members), None)
            if absent:
                raise ValueError(f"it lacks the array {absent}, and holds {', '.join(members) or 'none'}")
            if sum(members[key].file_size for key in wanted) > LARGEST:
                raise ValueError(f"it unpacks to more than {LARGEST:,} bytes: use dataset=image_folder for larger sets")
            return {key: _array(archive, members[key]) for key in wanted}
    except Exception as error:  # BadZipFile, zlib.error, EOFError, MemoryError, a header that is no header, ...
        raise ValueError(f"{path} is not a readable .npz archive: {one_line(error)}") from error


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # the others unpack without a bound
        raise ValueError(f"{info.filename} is compressed otherwise than numpy.savez_compressed does")
    with warnings.catch_warnings(), archive.open(info) as member:
        warnings.simplefilter("ignore")
        return np.lib.format.read_array(member, allow_pickle=False)


def _counted(splits: dict[str, Split], what: str) -> int:
    """How many classes the labels of train and test number from 0."""
    trained = splits["train"].labels.unique()
    count = 1 + max(int(splits[part].labels.max()) for part in ("train", "test"))
    if len(trained) < count and int(trained[0]) >= 0:
        missing = next(label for label in range(count) if label not in trained)
        raise ValueError(
            f"{what} has no label {missing}, but labels reach {count - 1}: number the classes from 0 without gaps, "
            f"or set `dataset.num_classes={count}`"
        )
    return count


def _pixels(x: np.ndarray, where: str) -> np.ndarray:
    """x as uint8; ValueError where that would clip or round."""
    if x.dtype == np.uint8:
        return x
    if x.dtype.kind in "iu":
        if x.min() < 0 or x.max() > 255:
            raise ValueError(f"{where} has integers from {x.min()} to {x.max()}: pixels are 0 to 255")
        return x.astype(np.uint8)
    if x.dtype.kind != "f":
        raise ValueError(f"{where} must hold numbers, got {x.dtype}")
    if not np.isfinite(x).all():
        raise ValueError(f"{where} has NaN or infinite values")
    if x.min() < 0 or x.max() > 1:
        raise ValueError(f"{where} has floats from {x.min():g} to {x.max():g}: they must lie in [0, 1], or store uint8")
    levels = np.rint(x * 255.0)
    if np.abs(x - levels / 255.0).max() > 1e-6:
        raise ValueError(f"{where} has floats that are not multiples of 1/255: round them to 8 bits and store uint8")
    return levels.astype(np.uint8)


def _channels_first(x: np.ndarray, layout: str | None, where: str) -> np.ndarray:
    if x.ndim == 3:
        return x[:, None]
    if x.ndim != 4:
        raise ValueError(f"{where} must have 3 or 4 axes, got shape {x.shape}")
    if layout is None:
        possible = [guess for guess, axis in (("NHWC", 3), ("NCHW", 1)) if x.shape[axis] in CHANNELS]
        if len(possible) != 1:
            raise ValueError(
                f"{where} of shape {x.shape} leaves open which axis has the channels: set `dataset.layout=`"
            )
        layout = possible[0]
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if layout == "NHWC" else x
