"""Your own arrays: one NumPy archive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from lipcert.datasets.assemble import Options, assemble
from lipcert.datasets.download import one_line
from lipcert.datasets.split import Dataset, Split

LAYOUTS = ("NHWC", "NCHW")
CHANNELS = (1, 3)


def npz(
    *,
    path: str | None = None,
    name: str = "npz",
    layout: str | None = None,
    num_classes: int | None = None,
    **shared: Any,
) -> Dataset:
    """Images x_train, x_test (and x_val) with integer labels y_train, y_test (and y_val) from the archive at `path`.

    Images are integers in 0..255, or floats in [0, 1] that are multiples of 1/255 to within 1e-6. (N, H, W) is grey.
    layout: "NHWC" or "NCHW"; None: the axis that has 1 or 3 entries holds the channels, and an error if both or neither
    have. num_classes: None: one more than the largest label of train and test.
    Pickled arrays are refused. With x_val in the archive, `val_size` is not used.
    """
    options = Options.of(shared)
    if layout not in (None, *LAYOUTS):
        raise ValueError(f"`dataset.layout` must be NHWC, NCHW or null, got {layout!r}")
    if not path:
        raise ValueError("`dataset.path` must name an .npz file with x_train, y_train, x_test and y_test")
    arrays = _arrays(Path(path).expanduser())
    splits = {}
    for part in ("train", "test", "val"):
        if part == "val" and "x_val" not in arrays:
            continue
        where = f"{path}: x_{part}"
        images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"{path}: y_{part} must hold integers, got {labels.dtype}")
        if images.size == 0:
            raise ValueError(f"{where} is empty")
        pixels = torch.from_numpy(_channels_first(_pixels(images, where), layout, where))
        try:
            splits[part] = Split(pixels, torch.from_numpy(labels.astype(np.int64)))
        except ValueError as error:
            raise ValueError(f"{where} and y_{part}: {error}") from None
    counted = 1 + max(int(splits[part].labels.max()) for part in ("train", "test"))
    return assemble(name, options, splits["train"], splits["test"], num_classes or counted, splits.get("val"))


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise ValueError(f"{path} is not a file: set `dataset.path=`")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except Exception as error:  # BadZipFile, zlib.error, EOFError, a header that is no header, ...
        raise ValueError(f"{path} is not a readable .npz archive: {one_line(error)}") from error
    wanted = ["x_train", "y_train", "x_test", "y_test", *(["y_val"] if "x_val" in arrays else [])]
    absent = next((key for key in wanted if key not in arrays), None)
    if absent:
        raise ValueError(f"{path} lacks the array {absent}; it holds {', '.join(arrays) or 'none'}")
    return arrays


def _pixels(x: np.ndarray, where: str) -> np.ndarray:
    """x as uint8, or a ValueError: nothing is clipped or rounded away."""
    if x.dtype == np.uint8:
        return x
    if np.issubdtype(x.dtype, np.integer):
        if x.min() < 0 or x.max() > 255:
            raise ValueError(f"{where} has integers from {x.min()} to {x.max()}: pixels are 0 to 255")
        return x.astype(np.uint8)
    if not np.issubdtype(x.dtype, np.floating):
        raise ValueError(f"{where} must hold numbers, got {x.dtype}")
    if not np.isfinite(x).all():
        raise ValueError(f"{where} has NaN or infinite values")
    if x.min() < 0 or x.max() > 1:
        raise ValueError(f"{where} has floats from {x.min():g} to {x.max():g}: they must lie in [0, 1], or store uint8")
    levels = np.rint(x * 255.0)
    if np.abs(x - levels / 255.0).max() > 1e-6:
        raise ValueError(f"{where} has floats that are no multiples of 1/255: round them to 8 bits and store uint8")
    return levels.astype(np.uint8)


def _channels_first(x: np.ndarray, layout: str | None, where: str) -> np.ndarray:
    if x.ndim == 3:
        return x[:, None]
    if x.ndim != 4:
        raise ValueError(f"{where} must have 3 or 4 axes, got shape {x.shape}")
    if layout is None:
        fitting = [guess for guess, axis in (("NHWC", 3), ("NCHW", 1)) if x.shape[axis] in CHANNELS]
        if len(fitting) != 1:
            raise ValueError(f"{where} of shape {x.shape} leaves open where the channels are: set `dataset.layout=`")
        layout = fitting[0]
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if layout == "NHWC" else x
