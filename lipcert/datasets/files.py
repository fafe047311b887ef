"""Images as files: read by Pillow, in parallel processes, whole or batch by batch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import center_crop, resize

T = TypeVar("T")
GREY = ("1", "L", "LA")


@dataclass(frozen=True)
class ImageFiles(Dataset):
    """Images of one size on disk; `files[[i, j]]` reads them as uint8 (2, C, H, W).

    mode: Pillow's "L" (C = 1) or "RGB" (C = 3). size: (H, W). resized: every image is scaled to cover `size` and its
    centre kept; otherwise one of another size is an error.
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
        for indices, read in zip(track(pieces, description), read_batches(self, pieces, workers), strict=True):
            images[indices] = read
        return images

    def _read(self, path: str) -> Tensor:
        try:
            with Image.open(path) as image:
                check_mode(image, self.mode, path)
                pixels = image.convert(self.mode)
        except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path} is not a readable image: {' '.join(str(error).split())}") from error
        if self.resized:
            pixels = center_crop(resize(pixels, [max(self.size)]), list(self.size))
        elif pixels.size[::-1] != self.size:
            sizes = f"{pixels.height} x {pixels.width}, the first image {self.size[0]} x {self.size[1]}"
            raise ValueError(f"{path} is {sizes}: set `dataset.image_size` to resize and crop them all")
        array = np.array(pixels).reshape(*self.size, -1)
        return torch.from_numpy(array).permute(2, 0, 1)


def image_files(paths: Sequence[str], image_size: int | None = None, mode: str | None = None) -> ImageFiles:
    """The files as images like the first: of its size unless `image_size` says, grey if it is and no `mode` says."""
    if image_size is not None and image_size <= 0:
        raise ValueError(f"`dataset.image_size` must be positive or null, got {image_size}")
    if mode not in (None, "L", "RGB"):
        raise ValueError(f"`dataset.mode` must be L, RGB or null, got {mode!r}")
    try:
        with Image.open(paths[0]) as image:
            size, own = image.size[::-1], "L" if image.mode in GREY else "RGB"
    except (OSError, SyntaxError, EOFError) as error:
        raise ValueError(f"{paths[0]} is not a readable image: {' '.join(str(error).split())}") from error
    square = (image_size, image_size) if image_size else None
    return ImageFiles(paths, mode or own, square or (size[0], size[1]), resized=square is not None)


def check_mode(image: Image.Image, mode: str, path: str) -> None:
    """Refuses the conversions that would lose something without a word."""
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"{path} has more than 8 bits a channel (mode {image.mode}): convert it first")
    if mode == "L" and image.mode not in GREY:
        raise ValueError(f"{path} is in colour where the first image is grey: set `dataset.mode=RGB`")


def read_batches(files: ImageFiles, batches: Sequence[Tensor], workers: int, pin: bool = False) -> Iterator[Tensor]:
    """Reads each of the index tensors (b,) as uint8 (b, C, H, W), in order.

    workers: how many processes read, at most one for each core; 0: this one does.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    loader = DataLoader(
        _Careful(files),
        batch_size=None,
        sampler=[indices.tolist() for indices in batches],
        num_workers=min(workers, cores),
        pin_memory=pin,
        generator=torch.Generator(),  # its own: the loader would else draw a seed from the global stream at every epoch
    )
    for read in loader:
        if isinstance(read, Exception):
            raise read
        yield read


@dataclass(frozen=True)
class _Careful(Dataset):
    """Hands errors over as values: raised in a worker they would arrive as that process's traceback."""

    files: ImageFiles

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, indices: Sequence[int]) -> Tensor | Exception:
        try:
            return self.files[indices]
        except ValueError as error:
            return error


def track(items: Sequence[T], description: str, after: float = 2.0) -> Iterator[T]:
    """The items, with a progress bar on stderr once they have taken `after` seconds."""
    started, bar = time.monotonic(), None
    try:
        for done, item in enumerate(items):
            if bar is None and time.monotonic() - started > after:
                bar = Progress(console=Console(stderr=True))
                bar.start()
                task = bar.add_task(description, total=len(items))
            if bar is not None:
                bar.update(task, completed=done)
            yield item
    finally:
        if bar is not None:
            bar.update(task, completed=len(items))
            bar.stop()
