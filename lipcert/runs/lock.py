"""One writer at a time: a lock on a run's or a sweep's directory, and what is tidied when it is taken."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from lipcert.files import PARTIAL, read_regular, write_atomic
from lipcert.runs.layout import HOLDER, LOCK

POLL = 0.2  # seconds between two looks at a lock that is held
MOST_ENTRIES, MOST_DEPTH = 100_000, 12  # of a directory that is written to


@contextlib.contextmanager
def writing(directory: str | Path, what: str) -> Iterator[None]:
    """Holds the lock of a run's directory, for a command that writes to it.

    directory  exists
    what       the command, for whoever waits: "train", "attack"

    What killed writers left behind is deleted. ValueError where the directory holds a link or a special file, through
    which something else would be written.
    """
    directory = Path(directory)
    check_tree(directory)
    with held(directory, what):
        check_tree(directory, tidy=True)
        yield


@contextlib.contextmanager
def held(directory: Path, what: str) -> Iterator[None]:
    """Holds the lock of a directory; waits where another process holds it, and says on stderr which one."""
    import filelock

    lock = filelock.FileLock(directory / LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        print(f"lipcert: waiting for {_holder(directory)}, which writes to {directory}", file=sys.stderr, flush=True)
        lock.acquire(poll_interval=POLL)
    try:
        holder = {"command": what, "process": os.getpid(), "host": socket.gethostname()}
        write_atomic(directory / HOLDER, json.dumps(holder))
        yield
    finally:
        with contextlib.suppress(OSError):  # the directory may be gone
            (directory / HOLDER).unlink(missing_ok=True)
        lock.release()


def check_tree(directory: Path, tidy: bool = False) -> None:
    """ValueError naming the first link or special file below a directory, and where there is too much in it.

    tidy  whether the partial files of killed writers are deleted
    """
    left, seen, partial = [(directory, 0)], 0, []
    while left:
        folder, depth = left.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                seen += 1
                try:
                    mode = entry.stat(follow_symlinks=False).st_mode
                except FileNotFoundError:  # a partial file that its writer has just put in its place
                    continue
                if depth >= MOST_DEPTH or seen > MOST_ENTRIES:
                    raise ValueError(f"{directory} holds more than a run does: nothing is written there")
                if stat.S_ISDIR(mode):
                    left.append((Path(entry.path), depth + 1))
                    partial += [entry.path] if entry.name.endswith(PARTIAL) else []
                elif not stat.S_ISREG(mode):
                    raise ValueError(f"{entry.path} is a link or no regular file: nothing is written where one lies")
                elif tidy and entry.name.endswith(PARTIAL):
                    Path(entry.path).unlink(missing_ok=True)
    for path in partial if tidy else ():
        shutil.rmtree(path, ignore_errors=True)  # a rank that is about to end may still write there


def _holder(directory: Path) -> str:
    try:
        holder = json.loads(read_regular(directory / HOLDER, 1 << 16))
        return f"`lipcert {holder['command']}` (process {holder['process']} on {holder['host']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
