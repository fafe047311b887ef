"""What Hydra says of a configuration that does not compose, as one line with the way out."""

from __future__ import annotations

import re

from lipcert import errors
from lipcert.cli.choices import among, keys, nearest_key, options


def message(error: BaseException, command: str) -> tuple[str, int] | None:
    """(message, exit status) of an error that the user can put right or must know of; None for a defect of lipcert."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    cause = error
    while cause.__cause__ is not None and isinstance(cause, HydraException | OmegaConfBaseException):
        cause = cause.__cause__
    if isinstance(error, HydraException | OmegaConfBaseException) and not isinstance(cause, errors.CertificateBroken):
        return composition(error, command), 2
    return errors.message(cause)


def composition(error: Exception, command: str) -> str:
    """Hydra's message about a configuration that does not compose, in one line with the way out."""
    text = str(error)
    if found := re.search(r"Could not find '([^']+)'", text):
        group, _, option = found.group(1).partition("/")
        choices = options(group, getattr(error, "options", None) or ())
        return f"`{group}={option}`: there is no such option{among(option, choices)}"
    if found := re.search(r"Could not override '([^']+)'", text):
        key = found.group(1)
        return (
            f"`{key}` is not a key of `lipcert {command}`{nearest_key(key, keys(command))} (--cfg job prints them all)"
        )
    if "Ambiguous value for argument" in text:
        key, _, value = (ambiguous := text.split("'")[1]).partition("=")
        return f"`{ambiguous}` has several values: add -m for one job each, or write {key}=[{value}] for a list"
    if override := getattr(error, "override", None):
        return f"`{override}` can't be read ({text.splitlines()[0]}): write key=value, quoted like key=\"'a, b'\""
    return re.sub(r"\s*\n\s*", "; ", text.strip())
