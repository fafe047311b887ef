"""What Hydra says of a configuration that does not compose, as one line with the way out."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lipcert import errors
from lipcert.cli.choices import Chosen, chosen, options
from lipcert.cli.describe import is_inner
from lipcert.cli.meant import NUMEROUS, among, did_you_mean, keys_meant, options_with, spelt_like
from lipcert.configuration import UnknownKey


def message(
    error: BaseException, command: str, overrides: Sequence[str] = (), config_dir: str | None = None
) -> tuple[str, int] | None:
    """What the user is shown of an error that he can put right or must know of.

    error       what was raised
    command     the command, and `overrides` what he wrote behind it
    config_dir  the directory of his own options

    Returns (message, exit status); None for a defect of lipcert.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    cause = error
    while cause.__cause__ is not None and isinstance(cause, HydraException | OmegaConfBaseException):
        cause = cause.__cause__
    if isinstance(error, HydraException | OmegaConfBaseException) and not isinstance(cause, errors.CertificateBroken):
        return composition(error, command, overrides, config_dir), 2
    written = [override.lstrip("+").partition("=")[0] for override in overrides]
    if isinstance(cause, UnknownKey) and cause.key in written:
        hint = elsewhere(cause.key, chosen(command, overrides, config_dir), config_dir)
        return f"{str(cause).partition('; did you mean')[0]}{hint}" if hint else str(cause), 2
    return errors.message(cause)


def composition(error: Exception, command: str, overrides: Sequence[str], config_dir: str | None) -> str:
    """Hydra's message about a configuration that does not compose, in one line with the way out."""
    text = str(error)
    if found := re.search(r"Could not find '([^']+)'", text):
        group, _, option = found.group(1).partition("/")
        if group == "hydra":
            return plugin_missing(option)
        known = among(option, options(group, config_dir), f"--help {group}")
        return f"`{group}={option}`: there is no such option{known}"
    if found := re.search(r"Could not override '([^']+)'", text):
        return unknown_key(found.group(1), command, overrides, config_dir)
    if "Ambiguous value for argument" in text:
        key, _, value = (ambiguous := text.split("'")[1]).partition("=")
        return f"`{ambiguous}` has several values: add -m for one job each, or write {key}=[{value}] for a list"
    if override := getattr(error, "override", None):
        return f"`{override}` can't be read ({text.splitlines()[0]}): write key=value, quoted like key=\"'a, b'\""
    return re.sub(r"\s*\n\s*", "; ", text.strip())


def plugin_missing(option: str) -> str:
    """What to do where Hydra has no `launcher/joblib`: most of these options come with packages of their own."""
    kind, _, name = option.partition("/")
    if kind not in ("launcher", "sweeper"):
        return f"`hydra/{option}`: Hydra has no such option"
    package = f"hydra-{name}-{kind}"
    return f"`hydra/{kind}={name}`: Hydra has no such {kind}; if there is a plugin for it: pip install {package}"


def unknown_key(key: str, command: str, overrides: Sequence[str] = (), config_dir: str | None = None) -> str:
    """What is said of a key that the chosen configuration does not have."""
    config = chosen(command, overrides, config_dir)
    group, _, inner = key.partition(".")
    hint = elsewhere(key, config, config_dir) or did_you_mean(spelt_like(key, config))
    option = config.options.get(group)
    if not option or not inner:
        return f"`{key}` is not a key of `lipcert {command}`{hint or ' (--cfg job prints them all)'}"
    leaves = [name for name, value in config.values.items() if not isinstance(value, dict)]
    names = [name.partition(".")[2] for name in leaves if name.startswith(f"{group}.") and not is_inner(name)]
    listed = ", ".join(names) if len(names) <= NUMEROUS else f"--help {group}={option} lists them"
    return f"`{key}`: {group}={option} has no such key{hint} (its keys: {listed})"


def elsewhere(key: str, config: Chosen, config_dir: str | None) -> str:
    """What ends a message about an unknown key: the keys that it stands for, or the options that have it; or ""."""
    others = options_with(key, config, config_dir)
    if key not in others and (meant := keys_meant(key, config)):
        return did_you_mean(meant)
    have = [
        f"{name.partition('.')[0]}={', '.join(has)} {'has' if len(has) == 1 else 'have'} `{name}`"
        for name, has in others.items()
    ]
    return f"; {', '.join(have)}" if have else ""
