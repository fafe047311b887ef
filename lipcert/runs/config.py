"""A run's configuration: written when the run is made, and read as plain data."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from lipcert.configuration import check_plain, check_trusted, fits, radii, read_yaml
from lipcert.files import PARTIAL
from lipcert.runs.directory import RunDirectory, is_run
from lipcert.runs.layout import CONFIG, HOLDER, LOCK, MANIFEST

PARTS = ("dataset", "model", "loss", "optimizer", "schedule", "certificate", "attack", "trainer", "monitor", "logger")
KEYS = frozenset({"name", "tags", "chosen", "seed", "eps", *PARTS})
FORMS: dict[str, tuple[Any, str]] = {  # of their values
    **dict.fromkeys(KEYS, (dict, "a mapping")),
    "attack": (dict | None, "a mapping or null"),
    "logger": (dict | None, "a mapping or null"),
    "tags": (list[str], "a list of texts"),
    "name": (str, "a text"),
    "seed": (int, "a whole number"),
    "eps": (list[float], "a list of numbers"),
    "extended": (list[int], "a list of whole numbers"),
}
MOST_BYTES = 1 << 18


class AlreadyExists(ValueError):
    """The directory that a new run was to have is not empty."""


def make_directory(directory: Path) -> Path:
    """Makes the directory of a new run; ValueError if there is something in it already or it can't be written."""
    try:
        if directory.exists() and not directory.is_dir():
            raise ValueError(f"`output_dir`: {directory} is a file")
        directory.mkdir(parents=True, exist_ok=True)
        check_new(directory)
    except OSError as error:
        raise ValueError(f"`output_dir`: {directory} cannot be written ({error.strerror or error})") from None
    return directory


def write_config(run: RunDirectory, config: Mapping[str, Any], data: Mapping[str, str]) -> None:
    """Writes the configuration and the manifest of a new run, whose lock is held.

    config  resolved, of plain values
    data    the hash of the images of each split

    ValueError where the directory is another run's already, or holds anything but what a killed start left.
    """
    check_new(run.path)
    check_plain(dict(config), "the configuration")
    run.create_manifest(data)
    rewrite_config(run, config)


def rewrite_config(run: RunDirectory, config: Mapping[str, Any]) -> None:
    """Replaces the configuration of a run, whose lock is held."""
    run.replace(CONFIG, yaml.dump(dict(config), Dumper=_Dumper, sort_keys=False))


def check_new(directory: Path) -> None:
    """ValueError where a directory holds anything but what a start that was killed left in it."""
    left = {LOCK, HOLDER, MANIFEST}
    if any(path.name not in left and not path.name.endswith(PARTIAL) for path in directory.iterdir()):
        raise AlreadyExists(f"`output_dir`: {directory} already exists; give another, or go on by resume={directory}")


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        """What stands twice is written twice: a reader takes no alias."""
        return True


def read_config(
    directory: str | Path, key: str = "run", trust: bool = False, parts: Collection[str] = KEYS
) -> dict[str, Any]:
    """A run's resolved configuration.

    key    what the user named the directory by
    trust  whether it may name code outside lipcert
    parts  the keys whose parts the caller will build

    Raises ValueError, in one line, where there is no run, where the file is damaged or holds anything but plain values,
    and where `parts` name code that is not ours.
    """
    run = RunDirectory(directory)
    if not is_run(run.path):
        raise ValueError(
            f"`{key}`: {directory} is not a run's directory (no readable {CONFIG}): give one that `lipcert train` wrote"
        )
    config = read_yaml(run.read(CONFIG, MOST_BYTES), str(run / CONFIG))
    if not isinstance(config, dict) or not config.keys() >= KEYS:
        raise ValueError(
            f"{run / CONFIG} is not the configuration of a run: it lacks some of {', '.join(sorted(KEYS))}"
        )
    check_forms(config, str(run / CONFIG))
    check_trusted({part: config[part] for part in parts}, trust, str(run / CONFIG))
    return config


def check_forms(config: Mapping[str, Any], source: str) -> None:
    """ValueError where a run's configuration, read from the file `source`, has something of another form in its place.

    Whether a part takes what it is given is only known where it is built.
    """
    for key, (form, name) in FORMS.items():
        if key not in config:  # `extended`, of a run that never was
            continue
        value = config[key]
        if not fits(value, form):
            raise ValueError(f"{source}: `{key}` must be {name}, got {value!r}")
        part = isinstance(value, dict) and key not in ("chosen", "trainer", "monitor")
        if part and not isinstance(value.get("_target_"), str):
            raise ValueError(f"{source}: `{key}._target_` must be the name of a part, got {value.get('_target_')!r}")
    radii(config["eps"], f"{source}: eps")
