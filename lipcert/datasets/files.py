"""Images as files: read by Pillow, in parallel processes, whole or batch by batch."""

from __future__ import annotations

import operator
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lipcert.datasets.checks import check
from lipcert.errors import one_line
from lipcert.files import opened
from lipcert.progress import track

GREY = ("1", "L", "LA")
# What Pillow may take a file for, whatever its name: others run external programs or can't be in an image folder.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
LARGEST = 2**30  # bytes of an image's file
LARGEST_SIDE = 2**12  # of the images after scaling
MOST_PIXELS = 2**27  # of an image while it is scaled


@dataclass(frozen=True)
class ImageFiles(Dataset):
    """Images of one size on disk; `files[[i, j]]` reads them as uint8 (2, C, H, W).

    mode: Pillow's "L" (C = 1) or "RGB" (C = 3). size: (H, W). resized: every image is scaled until it covers `size`,
    and its centre kept; otherwise an image of another size is an error.
    Reading raises ValueError where a file is no such image. Of an animation, the first picture is read.
    """

    paths: Sequence[str]
    mode: str
    size: tuple[int, int]
    resized: bool = False

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.paths), 1 if self.mode == "L" else 3, *self.size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, indices: Sequence[int]) -> Tensor:
        images = torch.empty(len(indices), *self.shape[1:], dtype=torch.uint8)
        for place, index in enumerate(indices):
            images[place] = self._read(self.paths[index])
        return images

    def take(self, indices: Tensor) -> ImageFiles:
        return replace(self, paths=[self.paths[i] for i in indices.tolist()])

    def in_memory(self, description: str) -> Tensor:
        """All of them, (N, C, H, W), with a progress bar if it takes more than two seconds."""
        count, *shape = self.shape
        images = torch.empty(count, *shape, dtype=torch.uint8)
        chunk = max(1, 2**20 // int(np.prod(shape)))  # about 1 MB: containers give processes little shared memory
        pieces = torch.arange(count).split(chunk)
        workers = 16 if count > 4000 else 0
        for indices, read in zip(
            track(pieces, description, len(pieces)), read_batches(self, pieces, workers), strict=True
        ):
            images[indices] = read
        return images

    def _read(self, path: str) -> Tensor:
        image = read_image(path, self.mode)
        height, width = image.height, image.width
        if self.resized:
            side = max(self.size)
            if height * width * (side / min(height, width)) ** 2 > MOST_PIXELS:
                raise ValueError(f"{path} is {height} x {width}, which is too narrow to be scaled to {side} x {side}")
            from torchvision.transforms.functional import center_crop, resize  # a second, which few data sets need

            image = center_crop(resize(image, [side]), list(self.size))
        elif (height, width) != self.size:
            sizes = f"{height} x {width}, but the first image {self.size[0]} x {self.size[1]}"
            raise ValueError(f"{path} is {sizes}: set `dataset.image_size` to scale and crop them all")
        return torch.from_numpy(np.array(image).reshape(*self.size, -1)).permute(2, 0, 1)


def image_files(paths: Sequence[str], image_size: int | None = None, mode: str | None = None) -> ImageFiles:
    """The files as images that are like the first.

    image_size: the side that all are scaled to; None: all are of the size of the first.
    mode: "L" or "RGB"; None: "L" if the first is grey.
    Raises ValueError for other values, and where the first file is no image.
    """
    sides = f"an integer from 1 to {LARGEST_SIDE:,} or null"
    check("dataset.image_size", image_size, sides, lambda v: v is None or 1 <= operator.index(v) <= LARGEST_SIDE)
    check("dataset.mode", mode, "L, RGB or null", lambda v: v in (None, "L", "RGB"))
    first = read_image(paths[0], mode)
    size = (image_size, image_size) if image_size else (first.height, first.width)
    return ImageFiles(paths, first.mode, size, resized=image_size is not None)


def read_image(path: str, mode: str | None) -> Image.Image:
    """The image at `path`, converted to `mode`; None: to "L" if it is grey, else to "RGB".

    Raises ValueError where it can't be read, or where the conversion would lose more than an alpha channel.
    """
    try:
        with warnings.catch_warnings(), opened(Path(path).resolve(), LARGEST) as file:
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as image:
                mode = mode or ("L" if image.mode in GREY else "RGB")
                loss = _loss(image, mode)
                converted = None if loss else image.convert(mode)
    except Exception as error:  # whatever the bytes made of Pillow: OSError, SyntaxError, struct.error, ...
        reason = "its format is unknown" if isinstance(error, UnidentifiedImageError) else one_line(error)
        raise ValueError(f"{path} is not a readable image: {reason}") from error
    if converted is None:
        raise ValueError(f"{path} {loss}")
    return converted


def _loss(image: Image.Image, mode: str) -> str | None:
    """What a conversion to `mode` would lose, and the way out."""
    coded = [str(tile.args[0] if isinstance(tile.args, tuple) else tile.args) for tile in getattr(image, "tile", ())]
    deep = any(";16" in code and not code.startswith("BGR") for code in coded)  # BGR;16 has 16 bits a pixel
    if deep or image.mode.startswith(("I", "F")):
        return f"has more than 8 bits a channel (mode {image.mode}): convert it first"
    if mode == "L" and image.mode not in GREY:
        return "is in colour, but the images are read as grey: set `dataset.mode=RGB`"
    return None


def read_batches(files: ImageFiles, batches: Sequence[Tensor], workers: int, pin: bool = False) -> Iterator[Tensor]:
    """Reads images in parallel.

    batches: indices (b,) of the images in `files`. workers: how many processes read, at most one for each core; 0: this
    process reads. pin: whether to return page-locked memory.
    Returns, in the order of `batches`, the images of each: uint8 (b, C, H, W). Raises ValueError as reading does.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    loader = DataLoader(
        _Careful(files),
        batch_size=None,
        sampler=[indices.tolist() for indices in batches],
        num_workers=min(workers, cores),
        pin_memory=pin,
        generator=torch.Generator(),  # otherwise each pass would draw a seed from the global generator
    )
    for read in loader:
        if isinstance(read, Exception):
            raise read
        yield read


@dataclass(frozen=True)
class _Careful(Dataset):
    """Returns errors as values: raised in a worker, an error would arrive with that process's traceback in its text."""

    files: ImageFiles

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, indices: Sequence[int]) -> Tensor | Exception:
        try:
            return self.files[indices]
        except ValueError as error:
            return error
