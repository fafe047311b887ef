"""What a user is told when something goes wrong: one line that names the key and the way out."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lipcert.contracts import CertificateBroken, RanksFailed
from lipcert.tasks.choices import among, keys, nearest_key, options


def told(error: BaseException, task: str) -> tuple[str, int] | None:
    """(message, exit status) of an error that the user can put right or must know; None for a defect of lipcert."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    if any("torchvision::nms" in str(link) for link in chain(error)):
        return (
            "torch and torchvision come from different places and don't fit each other: "
            "pip install --force-reinstall torch torchvision (both from one index)"
        ), 2
    cause = error
    while cause.__cause__ is not None and isinstance(cause, HydraException | OmegaConfBaseException):
        cause = cause.__cause__
    if isinstance(cause, CertificateBroken):
        return str(cause), 3
    if isinstance(error, HydraException | OmegaConfBaseException):
        return composition(error, task), 2
    if type(cause).__name__ == "OutOfMemoryError":
        return f"out of memory: give a smaller `schedule.batch_size` or `batch_size` ({one_line(cause)})", 2
    if isinstance(cause, OSError) and cause.strerror:
        return f"{cause.filename or 'a file'}: {cause.strerror}", 2
    if isinstance(cause, ValueError | RanksFailed):
        return str(cause), 2
    return None


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it; each once, for one that was raised again is its own context's cause."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        yield error
        seen.append(error)
        error = error.__cause__ or error.__context__


def composition(error: Exception, task: str) -> str:
    """Hydra's message about a configuration that doesn't compose, in one line with the way out."""
    text = str(error)
    if found := re.search(r"Could not find '([^']+)'", text):
        group, _, option = found.group(1).partition("/")
        choices = options(group, getattr(error, "options", None) or ())
        return f"`{group}={option}`: there is no such option{among(option, choices)}"
    if found := re.search(r"Could not override '([^']+)'", text):
        key = found.group(1)
        return f"`{key}` is not a key of `lipcert {task}`{nearest_key(key, keys(task))} (--cfg job prints them all)"
    if "Ambiguous value for argument" in text:
        key, _, value = (ambiguous := text.split("'")[1]).partition("=")
        return f"`{ambiguous}` has several values: add -m for one job each, or write {key}=[{value}] for a list"
    if override := getattr(error, "override", None):
        return f"`{override}` can't be read ({text.splitlines()[0]}): write key=value, quoted like key=\"'a, b'\""
    return re.sub(r"\s*\n\s*", "; ", text.strip())


def blamed(what: str, error: Exception) -> ValueError:
    """An error as one that says whose it is; as it is where it names a key by itself."""
    return ValueError(
        str(error) if isinstance(error, ValueError) and "`" in str(error) else f"{what} ({one_line(error)})"
    )


def one_line(error: BaseException, width: int = 160) -> str:
    """An error's message on one line of at most so many characters; its kind where it has none."""
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
    return (text if len(text) <= width else f"{text[:width].rstrip()} ...") or type(error).__name__
