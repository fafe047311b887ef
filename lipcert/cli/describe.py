"""What the files of conf/ say of themselves: what an option is, its keys with values and comments, what it brings.

They are read as text, without Hydra, so that help and completion are quick.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lipcert.cli.choices import CONF, file_of

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Key(NamedTuple):
    """A key of an option: its value as the file has it, and the comment behind it ("" without one)."""

    value: str
    about: str


class Option(NamedTuple):
    """An option of a group, together with the options that it is laid over.

    about   what it is: the comment at the beginning of its file
    keys    by dotted name, without the group
    brings  {group: option} of other groups
    """

    about: str
    keys: dict[str, Key]
    brings: dict[str, str]


# Which the command line replaces by other keys before Hydra reads them.
DEBUG = {"debug": Key("false", "one epoch on 100 images, to see whether everything works")}


def option(group: str, name: str, config_dir: str | None = None) -> Option:
    """What `group=name` is; ValueError where its file can't be read."""
    path = file_of(group, name, config_dir)
    return read(path, group, config_dir) if path else Option("", {}, {})


def command(name: str) -> Option:
    """What a command takes: its own keys, and as `brings` its groups with their options by default."""
    found = read(CONF / f"{name}.yaml", "", None)
    keys = {key: value for key, value in found.keys.items() if not key.startswith("hydra.")}
    groups = {group: value for group, value in found.brings.items() if "@" not in group}
    for group, chosen in groups.items():
        keys |= option(group, chosen).keys if is_global(group, chosen) else {}
    return found._replace(keys=keys | (DEBUG if name == "train" else {}), brings=groups)


def is_global(group: str, name: str, config_dir: str | None = None) -> bool:
    """Whether an option's keys are those of the whole configuration: a recipe's, for instance."""
    path = file_of(group, name, config_dir)
    return path is not None and "@package _global_" in path.read_text()


def is_inner(key: str) -> bool:
    """Whether a key says what its node is made of: no one sets it to another value."""
    return key.rpartition(".")[2] in ("_target_", "_partial_")


def read(path: Path, group: str, config_dir: str | None) -> Option:
    """One file of a group, after the files of the same group that its `defaults` name."""
    try:
        text = path.read_text()
        root = yaml.compose(text, Loader=LOADER)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} can't be read: {' '.join(str(error).split())}") from None
    content = {key.value: value for key, value in root.value} if isinstance(root, yaml.MappingNode) else {}
    keys: dict[str, Key] = {}
    brings: dict[str, str] = {}
    for entry in _entries(content.get("defaults")):
        if isinstance(entry, str):
            base = option(*_base(entry, group), config_dir) if entry != "_self_" else Option("", {}, {})
            keys, brings = keys | base.keys, brings | base.brings
        else:
            brings |= {_group(key): value for key, value in entry.items() if not key.startswith("override hydra/")}
    if isinstance(root, yaml.MappingNode):
        for name, key in _keys(root, text):
            keys[name] = key if key.about or name not in keys else key._replace(about=keys[name].about)
    return Option(_beginning(text) or getattr(content.get("title"), "value", ""), keys, brings)


def about(path: Path) -> str:
    """What the comment at the beginning of a file says, without reading the rest as YAML; a table's title."""
    text = path.read_text()
    titled = re.search(r'^title: "?(.*?)"?$', text, re.MULTILINE)
    return _beginning(text) or (titled[1] if titled else "")


def first_sentence(text: str) -> str:
    """The first sentence, without the full stop."""
    return re.split(r"(?<!\bal)\.\s+(?=[A-Z0-9])", text, maxsplit=1)[0].rstrip(".")


def _beginning(text: str) -> str:
    lines: list[str] = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            lines.append(line.lstrip("# "))
    return " ".join(lines)


def _entries(defaults: Any) -> Iterator[str | dict[str, str]]:
    """The entries of a `defaults` list."""
    for node in defaults.value if isinstance(defaults, yaml.SequenceNode) else ():
        if isinstance(node, yaml.MappingNode):
            yield {key.value: value.value for key, value in node.value}
        else:
            yield node.value


def _base(entry: str, group: str) -> tuple[str, str]:
    """("model", "lmt_resnet") of an entry of a `defaults` list: absolute where it begins with /."""
    if not entry.startswith("/"):
        return group, entry
    head, _, name = entry[1:].partition("/")
    return head, name


def _group(key: str) -> str:
    """`loss` of "override /loss@_global_.loss"; what is put elsewhere, such as "attack@loss.adversary", as it is."""
    name = key.removeprefix("override ").removeprefix("optional ").removeprefix("/")
    return re.sub(r"@_global_\..*", "", name)


def _keys(node: yaml.MappingNode, text: str, path: str = "") -> Iterator[tuple[str, Key]]:
    """Every key that has a value, dotted, in the order of the file."""
    for key, value in node.value:
        name = f"{path}{key.value}"
        if name == "defaults":
            continue
        if isinstance(value, yaml.MappingNode) and value.value:
            yield from _keys(value, text, f"{name}.")
            continue
        block = isinstance(value, yaml.SequenceNode) and not value.flow_style
        rest = text[(key if block else value).end_mark.index :].partition("\n")[0]
        found = re.search(r"(?:^|\s)#\s*(.*)", rest)
        yield name, Key(_shown(value) if block else _source(value, text), found[1] if found else "")


def _source(node: yaml.Node, text: str) -> str:
    return " ".join(text[node.start_mark.index : node.end_mark.index].split()) or "null"


def _shown(node: yaml.Node) -> str:
    """A list or a mapping in short: parts by the last word of their `_target_`."""
    if isinstance(node, yaml.MappingNode):
        inner = {key.value: value for key, value in node.value}
        return inner["_target_"].value.rpartition(".")[2] if "_target_" in inner else "{...}"
    return f"[{', '.join(map(_shown, node.value))}]" if isinstance(node, yaml.SequenceNode) else str(node.value)
