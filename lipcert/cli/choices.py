"""What there is to choose from on the command line: groups, their options, keys; and which of them was meant."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from lipcert.configuration import nearest

NUMEROUS = 20  # choices: an error doesn't list more than these


def options(group: str, found: Sequence[str] = ()) -> list[str]:
    """The names that a group takes: the shipped ones, and what else Hydra `found`.

    Names that begin with _ belong to parts of others, and are left out.
    """
    folder = Path(import_module("lipcert.conf").__path__[0]) / group
    shipped = [path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")]
    return sorted(name for name in {*shipped, *found} if not Path(name).name.startswith("_"))


def register_for_help() -> None:
    """Lets the help texts in conf/ say ${options:GROUP} and ${groups:}; with what --config-dir adds."""
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    def found(group: str) -> list[str]:
        return options(group, GlobalHydra.instance().config_loader().get_group_options(group))

    def everything(parent: str = "") -> str:
        loader, lines = GlobalHydra.instance().config_loader(), []
        for group in loader.list_groups(parent):
            if group == "hydra":
                continue
            inner = f"{parent}/{group}" if parent else group
            if names := loader.get_group_options(inner):
                label = f"{inner.replace('/', '=', 1)}{'/...' if parent else ''}"
                text = f"{label}: {', '.join(name for name in names if not name.startswith('_'))}"
                lines.append(textwrap.fill(text, 116, subsequent_indent="    ", break_on_hyphens=False))
            if loader.list_groups(inner):
                lines.append(everything(inner))
        return "\n".join(sorted(lines, key=lambda line: (line.count("\n"), line)))

    OmegaConf.register_new_resolver("options", lambda group: ", ".join(found(group)), replace=True)
    OmegaConf.register_new_resolver("groups", everything, replace=True)


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
    """The same for a dotted key: its neighbours count by their last word alone, as their first ones agree anyway."""
    parent, _, last = key.rpartition(".")
    siblings = {name.rpartition(".")[2]: name for name in choices if name.rpartition(".")[0] == parent}
    found = difflib.get_close_matches(last, list(siblings), 1, 0.6)
    return f"; did you mean `{siblings[found[0]]}`?" if found else nearest(key, choices, 0.8)


def among(word: str, choices: Sequence[str]) -> str:
    """The nearest choice, and all of them if they aren't too many."""
    listed = ", ".join(choices) if len(choices) <= NUMEROUS else f"{len(choices)}, which --help lists"
    return f"{nearest(word, choices)} (choices: {listed})"
