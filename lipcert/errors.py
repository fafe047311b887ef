"""Errors that users meet, and how one becomes a single line. This module imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Iterator


class CertificateBroken(Exception):
    """An adversarial image lies within its certified radius: the certificate, or the network it was made for, is wrong.

    The message names the image, the attack, the distance, the radius and the file that holds the counter-example.
    """


class NotConfirmed(Exception):
    """An exported bound or radius says more than can be proved of the network anew.

    The message names the file, the entry, what it says and what is proved.
    """


class RanksFailed(Exception):
    """One of several ranks of a training ended with an error, which it has printed."""


class RowsFailed(Exception):
    """Some rows of a table could not be computed; those that could are kept."""


# What a bad value makes of somebody else's constructor.
CAUSED_BY_VALUES = (ValueError, TypeError, RuntimeError, IndexError, ArithmeticError)


def one_line(error: BaseException, width: int = 160) -> str:
    """The message of an error on one line of at most `width` characters; the name of its class where it has none."""
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
    text = "".join(c if c.isprintable() else " " for c in text)
    return (text if len(text) <= width else f"{text[:width].rstrip()} ...") or type(error).__name__


def blamed(what: str, error: Exception) -> ValueError:
    """A ValueError that says what the error is about; the message stays as it is where it names a key by itself."""
    names_a_key = isinstance(error, ValueError) and "`" in str(error)
    return ValueError(str(error) if names_a_key else f"{what} ({one_line(error)})")


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it, each once: an error that was raised again is its own context's cause."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        yield error
        seen.append(error)
        error = error.__cause__ or error.__context__


def message(error: BaseException) -> tuple[str, int] | None:
    """What the user is shown of an error that he can put right or must know of, and the exit status.

    Returns (one line, 2), or (one line, 3) for a broken certificate and for what is not confirmed; None for a defect of
    lipcert itself.
    """
    if any("torchvision::nms" in str(link) for link in chain(error)):
        return (
            "torch and torchvision come from different places and do not fit each other: "
            "pip install --force-reinstall torch torchvision (both from one index)"
        ), 2
    if isinstance(error, CertificateBroken | NotConfirmed):
        return str(error), 3
    if type(error).__name__ == "OutOfMemoryError":
        return f"out of memory: give a smaller `schedule.batch_size` or `batch_size` ({one_line(error)})", 2
    if isinstance(error, MemoryError):
        return "out of memory: give a smaller `schedule.batch_size` or `batch_size`", 2
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'}: {error.strerror}", 2
    if isinstance(error, ValueError | RanksFailed | RowsFailed):
        return str(error), 2
    return None
