"""What can be chosen on the command line: the groups of a command, their options, and the keys of what was chosen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from lipcert.cli.plugins import scan_plugins

CONF = Path(import_module("lipcert.conf").__path__[0])


def options(group: str, config_dir: str | None = None) -> list[str]:
    """The names that a group takes: the shipped ones, and those of a directory of the user's own.

    Names that begin with _ belong to parts of others, and are left out.
    """
    found = {
        path.relative_to(folder).with_suffix("").as_posix()
        for place in _places(config_dir)
        if (folder := place / group).is_dir()
        for path in folder.rglob("*.yaml")
    }
    return sorted(name for name in found if not Path(name).name.startswith("_"))


def file_of(group: str, option: str, config_dir: str | None = None) -> Path | None:
    """The file of an option; where both have one, the shipped one counts, as for Hydra. None if there is none."""
    paths = [place / group / f"{option}.yaml" for place in _places(config_dir)]
    return next((path for path in paths if path.is_file()), None)


def _places(config_dir: str | None) -> list[Path]:
    return [CONF, *([Path(config_dir)] if config_dir else [])]


class Chosen(NamedTuple):
    """A configuration as it was chosen.

    values   every key and group, dotted, with its value before interpolation
    options  the option of every group; None where it has none
    """

    values: dict[str, Any]
    options: dict[str, str | None]


def chosen(command: str, overrides: Sequence[str] = (), config_dir: str | None = None) -> Chosen:
    """The configuration of `command` with those of the overrides that choose an option of a group.

    Where they do not compose it is the default configuration. Of several values the first one counts.
    """
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    pairs = [override.lstrip("+").partition("=") for override in overrides]
    choices = [f"{group}={value.partition(',')[0]}" for group, _, value in pairs if value and options(group)]
    if config_dir and Path(config_dir).is_dir():
        place = str(Path(config_dir).resolve()).replace("\\", "\\\\").replace("'", "\\'")
        choices.append(f"hydra.searchpath=['file://{place}']")
    scan_plugins()
    at_work = GlobalHydra.instance().hydra  # of a sweep, one of whose jobs failed
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("lipcert.conf", version_base="1.3"):
            try:
                config = compose(command, choices, return_hydra_config=True)
            except HydraException:
                config = compose(command, return_hydra_config=True)
    finally:
        GlobalHydra.instance().hydra = at_work
    taken = {group: name for group, name in config.hydra.runtime.choices.items() if not group.startswith("hydra/")}
    content = OmegaConf.to_container(config, resolve=False)
    assert isinstance(content, dict)
    return Chosen(dict(_walk({key: value for key, value in content.items() if key != "hydra"})), taken)


def _walk(node: dict[Any, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        yield f"{path}{key}", value
        if isinstance(value, dict):
            yield from _walk(value, f"{path}{key}.")
