"""The test images in an exported folder, which somebody else may have made."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lipcert.export import manifest
from lipcert.files import read_regular
from lipcert.frozen import Network

MOST_BYTES = 1 << 32  # packed, and unpacked


class Images(NamedTuple):
    """`pixels` (N, C, H, W) of bytes, with `labels` (N,)."""

    pixels: Tensor
    labels: Tensor


def packed(folder: Path, content: dict[str, Any], network: Network) -> Images:
    """The images of images.npz; ValueError where they are not as many, or not of the form, that the manifest says."""
    count, path = content["data"]["exported"], folder / manifest.IMAGES
    if not count:
        return Images(torch.zeros(0, *network.shape, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    due = {"images": ((count, *network.shape), np.uint8), "labels": ((count,), np.int64)}
    found = {}
    try:
        with zipfile.ZipFile(io.BytesIO(read_regular(path, MOST_BYTES))) as archive:
            sizes = {item.filename: item.file_size for item in archive.infolist()}
            if sorted(sizes) != [f"{name}.npy" for name in sorted(due)] or len(archive.infolist()) != len(due):
                raise ValueError("it does not hold `images` and `labels`")
            for name, (shape, dtype) in due.items():
                if sizes[f"{name}.npy"] > min(MOST_BYTES, math.prod(shape) * np.dtype(dtype).itemsize + 4096):
                    raise ValueError(f"`{name}` is too large")
                with archive.open(f"{name}.npy") as file:
                    array = np.lib.format.read_array(file, allow_pickle=False)
                if array.shape != shape or array.dtype != dtype:
                    raise ValueError(f"`{name}` is not of the form {shape}, {np.dtype(dtype)}")
                found[name] = torch.from_numpy(np.ascontiguousarray(array))
    except Exception as error:  # zipfile and numpy raise many kinds for damaged files
        raise ValueError(f"{path} can't be read as images ({str(error)[:150]})") from None
    return Images(found["images"], found["labels"])
