"""From Hydra's configuration to the keywords of a command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from lipcert.cli.arguments import complete
from lipcert.cli.messages import message
from lipcert.cli.naming import chosen, run_name
from lipcert.cli.plugins import scan_plugins
from lipcert.configuration import check, check_call, plain
from lipcert.runs.tried import without_words


def ready(
    config: Any, command: str, run: Callable[..., Any], choices: Mapping[str, Any], written: Mapping[str, str]
) -> dict[str, Any]:
    """The keywords of `run` that a composed configuration holds, checked; ValueError for what does not fit.

    choices  {group: option}, which name a run that has no name
    written  {key: value}, what tells the run from others, as it was written
    """
    settings = plain(config)
    if command == "train":
        settings["chosen"] = dict(written)
    if settings.get("name", "") is None:
        settings["name"] = run_name(choices)
    check_call(run, settings, called=f"`lipcert {command}`")
    check(settings | {"attack": without_words(settings["attack"] or {})} if command == "attack" else settings)
    return settings


def settings_of(command: str, overrides: list[str]) -> dict[str, Any]:
    """What a command would be called with, for the Python API: no sweeps, no flags. ValueError for what is refused."""
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import open_dict

    overrides = complete(command, [], overrides)
    scan_plugins()
    try:
        GlobalHydra.instance().clear()
        with initialize_config_module("lipcert.conf", version_base="1.3"):
            config = compose(command, overrides, return_hydra_config=True)
        choices = config.hydra.runtime.choices
        with open_dict(config):
            del config.hydra
        return ready(config, command, import_module(f"lipcert.commands.{command}").run, choices, chosen(overrides))
    except Exception as error:
        shown = message(error, command)
        if shown is None:
            raise
        raise ValueError(shown[0]) from None
