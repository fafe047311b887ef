"""From Hydra's configuration to the keywords of a command."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from lipcert.cli.arguments import complete
from lipcert.cli.messages import message
from lipcert.configuration import check, check_call, plain


def ready(config: Any, command: str, run: Callable[..., None]) -> dict[str, Any]:
    """The keywords of `run` that a composed configuration holds, checked; ValueError for what does not fit."""
    settings = plain(config)
    check_call(run, settings, called=f"`lipcert {command}`")
    check(settings)
    return settings


def settings_of(command: str, overrides: list[str]) -> dict[str, Any]:
    """What a command would be called with, for the Python API: no sweeps, no flags. ValueError for what is refused."""
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    overrides = complete(command, [], overrides)
    scan_plugins()
    try:
        GlobalHydra.instance().clear()
        with initialize_config_module("lipcert.conf", version_base="1.3"):
            config = compose(command, overrides)
        return ready(config, command, import_module(f"lipcert.commands.{command}").run)
    except Exception as error:
        shown = message(error, command)
        if shown is None:
            raise
        raise ValueError(shown[0]) from None


def scan_plugins() -> None:
    """Lets Hydra look for plugins, once: among what is installed, and not in the current directory."""
    from hydra.core.plugins import Plugins

    here, path = os.getcwd(), list(sys.path)
    sys.path[:] = [place for place in path if os.path.abspath(place or ".") != here]
    try:
        Plugins.instance()
    finally:
        sys.path[:] = path
