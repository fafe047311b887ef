"""The arguments of a command, before Hydra reads them: flags apart from overrides, and what the command adds."""

from __future__ import annotations

import argparse
import datetime
import itertools
import re
from pathlib import Path
from typing import NoReturn

from lipcert.cli.choices import among, options
from lipcert.configuration import MOST_DEPTH
from lipcert.runs.find import exists
from lipcert.runs.sweep import Sweep

HAVE_A_DIRECTORY = ("train", "compare", "separation")  # of their own, below outputs/


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message.replace("argument ", "`", 1).replace(":", "`:", 1))


def parser() -> argparse.ArgumentParser:
    """The flags of Hydra that make sense here; they may stand anywhere among the overrides."""
    flags = _Parser(prog="lipcert", add_help=False, allow_abbrev=False)
    flags.add_argument("--help", "-h", action="store_true")
    flags.add_argument("--multirun", "-m", action="store_true")
    flags.add_argument("--resolve", action="store_true")
    flags.add_argument("--cfg", "-c", choices=("job", "hydra", "all"))
    flags.add_argument("--info", choices=("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"))
    flags.add_argument("--config-dir", "-cd")
    flags.add_argument("overrides", nargs="*")
    return flags


def sort_arguments(arguments: list[str]) -> tuple[list[str], list[str]]:
    """(Hydra's flags, the overrides). ValueError for a flag that does not exist, or without its value."""
    flags = parser()
    found, unknown = flags.parse_known_intermixed_args(arguments)
    if unknown:
        names = [name for action in flags._actions for name in action.option_strings if name.startswith("--")]
        raise ValueError(f"`{unknown[0]}` is not a flag{among(unknown[0].partition('=')[0], names)}")
    given = {name.replace("_", "-"): value for name, value in vars(found).items() if name != "overrides" and value}
    pairs = [[f"--{name}"] if value is True else [f"--{name}", value] for name, value in given.items()]
    return [word for pair in pairs for word in pair], found.overrides


def complete(command: str, flags: list[str], overrides: list[str]) -> list[str]:
    """The overrides with what `command` adds to them; ValueError for what can't be meant."""
    for override in overrides:
        check_override(override)
    overrides = named(command, overrides)
    if command == "train" and value_of("resume", overrides) not in (None, "null"):
        others = [o for o in overrides if o.partition("=")[0].lstrip("+") not in ("resume", "trust")]
        if others or is_sweep(flags):
            extra = (others or ["-m"])[0]
            raise ValueError(f"`resume` takes all else from the run's own config.yaml: leave out {extra}")
    if is_sweep(flags):
        # Hydra composes a sweep once without what is swept over, where a key of a part that it names does not exist
        # yet; a job that has no such key says so itself.
        overrides = [f"++{o}" if re.match(r"[\w]+\.[^@=]*=", o) else o for o in overrides]
    output_dir = value_of("output_dir", overrides)
    if output_dir is None and (command in HAVE_A_DIRECTORY or is_sweep(flags)):
        return [*overrides, f"output_dir={free_directory(Path('outputs') / command)}"]
    if output_dir and is_sweep(flags):
        Sweep(output_dir, command).check()
    return overrides


def check_override(override: str) -> None:
    """ValueError for an override that Hydra would take, and that makes no sense here."""
    key, _, value = override.partition("=")
    depths = itertools.accumulate((c in "[{(") - (c in "]})") for c in value)
    if max(depths, default=0) > MOST_DEPTH:
        raise ValueError(f"`{key}`: its value is nested more than {MOST_DEPTH} deep")
    if (value == "null" or "${" in value) and options(key):
        raise ValueError(f"`{override}`: a group needs one of its options{among('none', options(key))}")
    if key.lstrip("+") == "hydra.verbose" and not re.fullmatch(r"(?!null$)[A-Za-z_][\w.]*|\[.*\]", value):
        raise ValueError(f"`{key}` must be true, false, the name of a logger or a list of them, got {value}")
    if key.lstrip("+~") in ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir"):
        raise ValueError(f"`{key}`: say output_dir=PATH, below which a sweep's jobs lie in 0, 1, ...")


def named(command: str, overrides: list[str]) -> list[str]:
    """The overrides, with words that have no key given theirs: the runs of `compare`. ValueError for other words."""
    words = [o for o in overrides if ("=" not in o and o[:1] != "~") or (command == "compare" and exists(o))]
    if not words:
        return overrides
    if command != "compare":
        meant = f"; did you mean run={words[0]}?" if command in ("certify", "attack") else ""
        raise ValueError(f"`{words[0]}` is not of the form key=value{meant}")
    quoted = ["'" + word.replace("\\", "\\\\").replace("'", "\\'") + "'" for word in words]
    return [*(o for o in overrides if o not in words), f"runs=[{','.join(quoted)}]"]


def is_sweep(flags: list[str]) -> bool:
    """Whether the flags ask for a job a combination of values."""
    return "--multirun" in flags


def value_of(key: str, overrides: list[str]) -> str | None:
    """What the command line says of `key`, without quotes around it; None if nothing."""
    found = [o.partition("=")[2] for o in overrides if o.partition("=")[0].lstrip("+") == key]
    return re.sub(r"^(['\"])(.*)\1$", r"\2", found[-1]) if found else None


def free_directory(parent: Path) -> Path:
    """PARENT/<now>, to the microsecond: a shell starts many runs in one second."""
    return parent / datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
