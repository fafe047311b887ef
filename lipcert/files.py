"""Reading and writing of files that somebody else may have made: regular files only, bounded, and through no link.

A file is either the old one or the new one, never half of one. What a killed process leaves behind ends in `.partial`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

PARTIAL = ".partial"


@contextlib.contextmanager
def opened(path: str | Path, limit: int) -> Iterator[BinaryIO]:
    """The file at `path`, open for reading.

    Raises ValueError, in one line, where it is a link, a folder, a pipe or a device, or larger than `limit` bytes;
    OSError where there is no such file or it may not be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise ValueError(f"{path} is no regular file: links, pipes and devices are not read") from None
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise ValueError(f"{path} is no regular file: links, pipes and devices are not read")
    with os.fdopen(descriptor, "rb") as file:
        if status.st_size > limit:
            raise ValueError(f"{path} has {status.st_size:,} bytes, and at most {limit:,} are read")
        yield file


def read_regular(path: str | Path, limit: int) -> bytes:
    """The content of the regular file at `path`, of at most `limit` bytes; raises as `opened` does."""
    with opened(path, limit) as file:
        return file.read(os.fstat(file.fileno()).st_size)


def hashed(file: BinaryIO, count: int | None = None) -> Any:
    """The SHA-256 of the next `count` bytes of a file, of all where None, as an object of hashlib."""
    found = hashlib.sha256()
    while chunk := file.read(1 << 20 if count is None else min(1 << 20, count)):
        found.update(chunk)
        count = None if count is None else count - len(chunk)
    return found


def beginning(file: BinaryIO, count: int, known: Collection[str]) -> tuple[int, Any] | None:
    """(length, SHA-256) of what was written to a file for certain: its first `count` bytes, or all of it, whichever has
    one of the `known` hashes; None where neither has."""
    found = hashed(file, count)
    if found.hexdigest() not in known:
        while chunk := file.read(1 << 20):
            found.update(chunk)
    return (file.tell(), found) if found.hexdigest() in known else None


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A new file, open for writing, which takes the place of `path` in one step when the block ends without an error.

    It is on the disk by then. A link at `path` is itself replaced; what it points to stays as it is.
    """
    path = Path(path)
    # The name is not from tempfile, whose files are readable by their owner alone: results are to be shared.
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    partial.unlink(missing_ok=True)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(partial, flags, 0o666), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # whose directory may be gone
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(partial)):  # None where writing failed
            error.filename = str(path)
        raise


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Replaces `path` by `content` (text as UTF-8) in one step: no reader and no kill meets a partial file."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def append(path: str | Path, content: bytes, after: int) -> None:
    """Adds `content` behind the first `after` bytes of a file, which is made where missing; what stood there is lost.

    It is on the disk on return. ValueError where the file is a link, has another name too, or is shorter than that.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise ValueError(f"{path} is no regular file: nothing is written through a link") from None
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        raise ValueError(f"{path} is a link or no regular file: nothing is written through a link")
    try:
        with os.fdopen(descriptor, "r+b") as file:
            if status.st_size < after:
                raise ValueError(f"{path} has {status.st_size:,} bytes where {after:,} were written")
            file.seek(after)
            file.write(content)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = str(path)
        raise


class Hashing:
    """A file that is written to, and the SHA-256 of what went into it. `error` is what writing failed with."""

    def __init__(self, file: BinaryIO):
        self.file, self.sha256, self.count = file, hashlib.sha256(), 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            self.sha256.update(data)
            self.count += len(data)
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def as_json(content: Any) -> str:
    """Readable JSON of dictionaries, lists, numbers, and numpy's; a number that is not finite becomes null."""
    return json.dumps(_plain(content), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int) else str(value)
