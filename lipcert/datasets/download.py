"""Files that ought to be there: downloaded where they are missing, and named where they are broken."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 5.0  # seconds that a server may be silent


def provide(
    root: Path, files: Sequence[str], archives: Mapping[str, Sequence[str]], download: Callable[[], object]
) -> None:
    """Sees to it that `files` lie under `root`, calling `download` where one is missing.

    archives: what `download` unpacks the files from, under `root`, each with the addresses that have it. Without an
    archive and without a network, or where the server falls silent: a ValueError, after a few seconds.
    """
    missing = [file for file in files if not (root / file).exists()]
    if not missing:
        return
    try:
        addresses = [address for archive in archives if not (root / archive).exists() for address in archives[archive]]
        if addresses and not _answers(addresses):
            raise OSError(f"no answer from {addresses[0]}")
        with _socket_timeout(PATIENCE):
            download()
    except Exception as error:  # RuntimeError, URLError, BadZipFile, tarfile.ReadError, ...: all mean no files
        wanted = f"{', '.join(missing[:4])}{' and more' if len(missing) > 4 else ''}"
        failed = f"downloading failed ({one_line(error)})"
        raise ValueError(f"{root} lacks {wanted}, and {failed}: put the files there or set `data_dir=`") from error


def read(load: Callable[[], T], files: Sequence[Path], probe: Callable[[Path], object]) -> T:
    """`load()`; where that fails, a ValueError naming the first of `files` that `probe` fails on or finds false."""
    try:
        return load()
    except MemoryError:
        raise
    except Exception as error:  # whatever the bytes made of the parser: AssertionError, struct.error, KeyError, ...
        broken = next((file for file in files if not _sound(file, probe)), None)
        what = str(broken or " or ".join(map(str, files)))
        raise ValueError(f"{what} is corrupt ({one_line(error)}): delete it, and it is downloaded anew") from error


def one_line(error: BaseException) -> str:
    """Its message on one line of at most 200 characters, or its kind where it has none."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _sound(file: Path, probe: Callable[[Path], object]) -> bool:
    try:
        return probe(file) is not False
    except Exception:
        return False


def _answers(addresses: Sequence[str]) -> bool:
    """Whether any of the servers answers in time.

    A socket's own timeout doesn't bound that: it counts anew for each of a host's addresses, and not for its name.
    """
    answers: queue.Queue[bool] = queue.Queue()

    def knock(address: str) -> None:
        request = urllib.request.Request(address, method="HEAD", headers={"User-Agent": "lipcert"})
        try:
            urllib.request.urlopen(request, timeout=PATIENCE).close()
        except urllib.error.HTTPError:
            answers.put(True)  # what it thinks of HEAD is no matter
        except Exception:
            answers.put(False)
        else:
            answers.put(True)

    for address in addresses:
        threading.Thread(target=knock, args=[address], daemon=True).start()
    deadline = time.monotonic() + PATIENCE
    with contextlib.suppress(queue.Empty):
        return any(answers.get(timeout=max(0.0, deadline - time.monotonic())) for _ in addresses)
    return False


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
