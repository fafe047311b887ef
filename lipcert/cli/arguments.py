"""The arguments of a command, before Hydra reads them: flags apart from overrides, and what the command adds."""

from __future__ import annotations

import argparse
import itertools
import re
from pathlib import Path
from typing import NoReturn

from lipcert.cli.choices import options
from lipcert.cli.meant import among, did_you_mean, flag_meant, override_meant
from lipcert.cli.naming import fixed_keys, sweep_name
from lipcert.configuration import MOST_DEPTH
from lipcert.runs.find import exists
from lipcert.runs.naming import free_directory
from lipcert.runs.sweep import Sweep

# Keys in whose values there may be a =.
PATHS = ("run", "resume", "other", "output", "output_dir", "data_dir", "dataset.path", "separation", "check", "folder")
DEBUG = {"schedule.epochs": "1", "dataset.subset": "100", "attack.images": "20"}  # what debug=true stands for
HYDRAS_DIRECTORIES = ("hydra", "hydra.run", "hydra.run.dir", "hydra.sweep", "hydra.sweep.dir", "hydra.sweep.subdir")
BESIDE_RESUME = ("resume", "trust", "extend")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message.replace("argument ", "`", 1).replace(":", "`:", 1))


def parser() -> argparse.ArgumentParser:
    """The flags of Hydra that make sense here; they may stand anywhere among the overrides."""
    flags = _Parser(prog="lipcert", add_help=False, allow_abbrev=False)
    add, info = flags.add_argument, ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
    add("--help", "-h", action="store_true", help="what the command takes; --help GROUP for a group")
    add("--multirun", "-m", action="store_true", help="one job a combination of values")
    add("--resolve", action="store_true", help="with --cfg: the values behind ${...}")
    add("--cfg", "-c", choices=("job", "hydra", "all"), help="print the configuration and stop")
    add("--info", choices=info, help="print how Hydra composes the configuration")
    add("--config-dir", "-cd", help="a directory with options of your own")
    flags.add_argument("overrides", nargs="*")
    return flags


def flag_actions() -> list[argparse.Action]:
    """The flags: names, choices, and what they are for."""
    return [action for action in parser()._actions if action.option_strings]


def sort_arguments(arguments: list[str], command: str) -> tuple[list[str], list[str]]:
    """(Hydra's flags, the overrides). ValueError for a flag that does not exist, or without its value."""
    if command == "reproduce":
        arguments = ["print=true" if word == "--print" else word for word in arguments]
    found, unknown = parser().parse_known_intermixed_args(arguments)
    if unknown:
        names = [name for action in flag_actions() for name in action.option_strings if name.startswith("--")]
        raise ValueError(f"`{unknown[0]}` is not a flag{flag_meant(unknown[0], names, command)}")
    given = {name.replace("_", "-"): value for name, value in vars(found).items() if name != "overrides" and value}
    pairs = [[f"--{name}"] if value is True else [f"--{name}", value] for name, value in given.items()]
    return [word for pair in pairs for word in pair], found.overrides


def complete(command: str, flags: list[str], overrides: list[str]) -> list[str]:
    """The overrides with what `command` adds to them; ValueError for what can't be meant."""
    for override in overrides:
        check_override(override)
    overrides = list(map(quoted_path, named(command, overrides)))
    if command == "train" and value_of("resume", overrides) not in (None, "null"):
        others = [o for o in overrides if o.partition("=")[0].lstrip("+") not in BESIDE_RESUME]
        if others or is_sweep(flags):
            extra = (others or ["-m"])[0]
            raise ValueError(f"`resume` takes all else from the run's own config.yaml: leave out {extra}")
    overrides = debugging(command, overrides)
    return of_a_sweep(command, overrides) if is_sweep(flags) else overrides


def of_a_sweep(command: str, overrides: list[str]) -> list[str]:
    """The overrides of a sweep, with its directory and with what tells its jobs apart."""
    output_dir = value_of("output_dir", overrides)
    if output_dir is None:
        output_dir = str(free_directory(Path("outputs") / command, sweep_name(overrides)))
        overrides = [*overrides, f"output_dir={output_dir}"]
    else:
        Sweep(output_dir, command).check()
    same = ",".join(f"'{key}'" for key in fixed_keys(overrides))
    # Hydra composes a sweep once without what is swept over, where a key of a part that it names does not exist
    # yet; a job that has no such key says so itself.
    overrides = [f"++{o}" if re.match(r"[\w]+\.[^@=]*=", o) else o for o in overrides]
    return [*overrides, f"hydra.job.config.override_dirname.exclude_keys=[{same}]"]


def debugging(command: str, overrides: list[str]) -> list[str]:
    """The overrides, with what debug=true stands for in its place; what is written besides wins."""
    if command != "train" or value_of("debug", overrides) is None:
        return overrides
    debug = value_of("debug", overrides)
    if debug not in ("true", "false"):
        raise ValueError(f"`debug` must be true or false, got {debug}")
    others = [o for o in overrides if o.partition("=")[0].lstrip("+") != "debug"]
    short = DEBUG.items() if debug == "true" else ()
    return [*others, *(f"++{key}={value}" for key, value in short if value_of(key, others) is None)]


def quoted_path(override: str) -> str:
    """A path with a = in it, as a sweep's jobs have, in the quotes that Hydra needs."""
    key, _, value = override.partition("=")
    plain = "=" in value and not re.search(r"""['",(\[{]""", value)
    return f"{key}='{value}'" if plain and key.lstrip("+") in PATHS else override


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
    if key.lstrip("+~") in HYDRAS_DIRECTORIES:
        raise ValueError(f"`{key}`: say output_dir=PATH, below which a sweep's jobs have directories of their own")


def named(command: str, overrides: list[str]) -> list[str]:
    """The overrides, with words that have no key given theirs: the runs of `compare` and `report`, the folder of
    `verify`. ValueError for other words."""
    takes_words = command in ("compare", "report", "verify")
    words = [o for o in overrides if ("=" not in o and o[:1] != "~") or (takes_words and exists(o))]
    if not words:
        return overrides
    if not takes_words or (command == "verify" and len(words) > 1):
        meant = [f"run={words[0]}"] if command in ("certify", "attack", "audit", "export") else []
        meant = override_meant(words[0], command) or meant
        raise ValueError(f"`{words[0]}` is not of the form key=value{did_you_mean(meant)}")
    quoted = ["'" + word.replace("\\", "\\\\").replace("'", "\\'") + "'" for word in words]
    given = f"folder={quoted[0]}" if command == "verify" else f"runs=[{','.join(quoted)}]"
    return [*(o for o in overrides if o not in words), given]


def config_dir(flags: list[str]) -> str | None:
    """The directory of the user's own options, if the flags name one."""
    return flags[flags.index("--config-dir") + 1] if "--config-dir" in flags else None


def is_sweep(flags: list[str]) -> bool:
    """Whether the flags ask for a job a combination of values."""
    return "--multirun" in flags


def value_of(key: str, overrides: list[str]) -> str | None:
    """What the command line says of `key`, without quotes around it; None if nothing."""
    found = [o.partition("=")[2] for o in overrides if o.partition("=")[0].lstrip("+") == key]
    return re.sub(r"^(['\"])(.*)\1$", r"\2", found[-1]) if found else None
