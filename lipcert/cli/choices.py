"""What can be chosen on the command line: groups, their options and keys; and which of them a word may mean."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from lipcert.configuration import nearest

NUMEROUS = 20  # choices: an error does not list more than these
NOT_OF_TRAIN = ("hydra", "table")


def options(group: str, found: Sequence[str] = ()) -> list[str]:
    """The names that a group takes: the shipped ones, and what else Hydra `found`.

    Names that begin with _ belong to parts of others, and are left out.
    """
    folder = Path(import_module("lipcert.conf").__path__[0]) / group
    shipped = [path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")]
    return sorted(name for name in {*shipped, *found} if not Path(name).name.startswith("_"))


def register_for_help() -> None:
    """Lets the help texts in conf/ say ${options:GROUP} and ${groups:}; with what --config-dir adds."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("options", lambda group: ", ".join(options(group, _found(group))), replace=True)
    OmegaConf.register_new_resolver("groups", lambda: "\n".join(_lines_of_groups()), replace=True)


def _found(group: str) -> list[str]:
    """The options of a group that Hydra finds."""
    from hydra.core.global_hydra import GlobalHydra

    return GlobalHydra.instance().config_loader().get_group_options(group)


def _lines_of_groups(parent: str = "") -> list[str]:
    """A line a group with its options, the short ones first; but not of those that `lipcert train` does not take."""
    from hydra.core.global_hydra import GlobalHydra

    lines: list[str] = []
    for group in GlobalHydra.instance().config_loader().list_groups(parent):
        if not parent and group in NOT_OF_TRAIN:
            continue
        path = f"{parent}/{group}" if parent else group
        if names := [name for name in _found(path) if not name.startswith("_")]:
            text = f"{path.replace('/', '=', 1)}{'/...' if parent else ''}: {', '.join(names)}"
            lines.append(textwrap.fill(text, 116, subsequent_indent="    ", break_on_hyphens=False))
        lines += _lines_of_groups(path)
    return sorted(lines, key=lambda line: (line.count("\n"), line))


def keys(command: str) -> list[str]:
    """Every key and group of a command's default configuration, dotted."""
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    GlobalHydra.instance().clear()
    with initialize_config_module("lipcert.conf", version_base="1.3"):
        config = OmegaConf.to_container(compose(command), resolve=False)

    def walk(node: Any, path: str) -> Iterator[str]:
        for key, value in node.items():
            yield path + key
            if isinstance(value, dict):
                yield from walk(value, f"{path}{key}.")

    return list(walk(config, ""))


def nearest_key(key: str, choices: Sequence[str]) -> str:
    """`nearest` for a dotted key: of its siblings only the last word is compared, for the others agree anyway."""
    parent, _, last = key.rpartition(".")
    siblings = {name.rpartition(".")[2]: name for name in choices if name.rpartition(".")[0] == parent}
    found = difflib.get_close_matches(last, list(siblings), 1, 0.6)
    return f"; did you mean `{siblings[found[0]]}`?" if found else nearest(key, choices, 0.8)


def among(word: str, choices: Sequence[str]) -> str:
    """The nearest choice, and all of them if they are not too many."""
    listed = ", ".join(choices) if len(choices) <= NUMEROUS else f"{len(choices)}, which --help lists"
    return f"{nearest(word, choices)} (choices: {listed})"
