"""The files of published data sets: downloaded where they are missing."""

from __future__ import annotations

import os
import queue
import shutil
import tempfile
import threading
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torchvision.datasets.utils import check_integrity, extract_archive

from lipcert.datasets.options import Options
from lipcert.errors import one_line
from lipcert.progress import waiting

PATIENCE = 8.0  # seconds that a server may be silent


class Archive(NamedTuple):
    """A file in which a data set is published: its path under `data_dir`, where to download it, and its MD5 sum."""

    path: str
    address: str
    md5: str


def provide(options: Options, files: Sequence[str], archives: Sequence[Archive]) -> None:
    """Downloads and unpacks what is missing; without a network where the archives lie there already.

    options: of the data set. files: the files and folders that are needed, as paths under `options.root`; they appear
    whole or not at all.
    Raises ValueError where they can't be had; after a few seconds where no server answers.
    """
    root = options.root
    missing = [file for file in files if not os.path.exists(root / file)]
    if not missing:
        return
    lacking = f"{root} lacks {', '.join(missing[:4])}{' and more' * (len(missing) > 4)}"
    way_out = "put the files there or set `data_dir=`"
    if not options.download:
        raise ValueError(f"{lacking}, and nothing is downloaded here: {way_out}")
    try:
        existing = next(folder for folder in (root, *root.parents) if os.path.exists(folder))
        with tempfile.TemporaryDirectory(prefix=".", suffix=".partial", dir=existing) as partial:
            for archive in archives:
                if not (root / archive.path.removesuffix(".gz")).exists():
                    _unpack(archive, root, Path(partial))
            for file in missing:
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                Path(partial, file).replace(root / file)
    except Exception as error:  # OSError, BadZipFile, HTTPException, ...: there are no files, whatever the reason
        raise ValueError(f"{lacking}, and downloading failed ({one_line(error)}): {way_out}") from error


def damaged(path: Path, error: BaseException) -> ValueError:
    """What to raise where a downloaded file can't be read: one line that names it."""
    return ValueError(f"{path} is damaged ({one_line(error)}): delete it, and it will be downloaded again")


def _unpack(archive: Archive, root: Path, partial: Path) -> None:
    """Puts what the archive holds under `partial`, at the place that it has under `root`."""
    source, fresh = root / archive.path, partial / archive.path
    fresh.parent.mkdir(parents=True, exist_ok=True)
    if not check_integrity(source, archive.md5):
        source = fresh
        with waiting(f"downloading {archive.address}"), _answer(archive.address) as answer, fresh.open("wb") as file:
            shutil.copyfileobj(answer, file)
        if not check_integrity(source, archive.md5):
            raise OSError(f"{archive.address} is not the published file: its MD5 sum is another")
    if source.suffix in (".gz", ".zip"):
        extract_archive(source, fresh.parent)


def _answer(address: str) -> Any:
    """The response of a server, or OSError after `PATIENCE` seconds.

    In a thread, because the time-out of a socket neither covers the look-up of a name nor all addresses of a host.
    """
    answers: queue.Queue[Any] = queue.Queue()

    def ask() -> None:
        try:
            answers.put(urllib.request.urlopen(address, timeout=PATIENCE))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=PATIENCE)
    except queue.Empty:
        answer = TimeoutError("time-out")
    if isinstance(answer, Exception):
        raise OSError(f"no answer from {address}: {one_line(answer)}")
    return answer
