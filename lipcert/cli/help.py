"""What `lipcert COMMAND --help` prints: the text of conf/<command>.yaml, or the options of a group and their keys.

It reads files as text, and needs neither Hydra nor torch.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from lipcert.cli import describe
from lipcert.cli.choices import CONF, file_of, options
from lipcert.cli.meant import among, did_you_mean, options_meant, override_meant

WIDTH = 110
WHOLE_WORDS: Any = {"break_on_hyphens": False, "break_long_words": False}


def help_text(command: str, topics: Sequence[str] = (), config_dir: str | None = None) -> str:
    """What --help prints.

    command     the command
    topics      what else stands on the command line: groups (`model`), options (`model=l2nnn`) and keys (`model.depth`)
                are explained; other overrides are not looked at
    config_dir  a directory with options of the user's own

    ValueError for a topic that there is not.
    """
    if config_dir and not Path(config_dir).is_dir():
        raise ValueError(f"`--config-dir`: {config_dir} is not a directory")
    groups = describe.command(command).brings
    asked = [topic for topic in topics if "=" not in topic or topic.partition("=")[0] in groups] if groups else []
    if not asked:
        return "\n".join(_overview(command, config_dir))
    return "\n\n".join("\n".join(_topic(command, topic, config_dir)) for topic in asked)


def _overview(command: str, config_dir: str | None) -> Iterator[str]:
    """The text of the command's file, in which {GROUP} stands for the group's options; how to ask for more."""
    content = yaml.load((CONF / f"{command}.yaml").read_text(), Loader=describe.LOADER)
    for line in content["hydra"]["help"]["template"].rstrip().splitlines():
        if found := re.search(r"\{(\w+)\}", line):
            listed = ", ".join(options(found[1], config_dir))
            yield from _wrapped(line[: found.start()], listed + line[found.end() :])
        else:
            yield line
    defaults = default_options(command)
    if not defaults:
        return
    example = "model" if "model" in defaults else next(iter(defaults))
    yield ""
    yield from _wrapped("Groups (GROUP=OPTION): ", ", ".join(sorted(defaults)))
    own = [f"{group}={name}" for group in defaults for name in options(group, config_dir) if _own(group, name)]
    if own:
        yield from _wrapped(f"Of {config_dir}: ", ", ".join(own))
    some = defaults[example] or options(example)[0]
    yield f"`lipcert {command} --help {example}` lists a group's options, `--help {example}={some}` an option's keys."


def default_options(command: str) -> dict[str, str | None]:
    """Each group of a command with its option by default, as other options by default bring it; None without one."""
    known = describe.command(command).brings
    brought: dict[str, str] = {}
    for group, name in known.items():
        brought |= describe.option(group, name).brings
    chosen = {group: brought.get(group, name) for group, name in known.items()}
    return {group: name if file_of(group, name) else None for group, name in chosen.items()}


def _topic(command: str, topic: str, config_dir: str | None) -> Iterator[str]:
    known = describe.command(command)
    groups = known.brings
    group, equals, chosen = topic.partition("=")
    if equals and chosen:
        for option in chosen.split(","):
            yield from _option(group, option, config_dir)
    elif group in groups:
        yield from _group(command, group, config_dir)
    elif "." in topic and topic.partition(".")[0] in groups:
        yield from _key(topic, config_dir)
    elif topic in known.keys:
        yield from _lines({f"{topic}={known.keys[topic].value}": known.keys[topic].about})
    else:
        meant = override_meant(topic, command, config_dir) or options_meant(topic, list(groups))
        listed = ", ".join(sorted(groups))
        raise ValueError(f"`{topic}` is not a group of `lipcert {command}`{did_you_mean(meant)} (groups: {listed})")


def _group(command: str, group: str, config_dir: str | None) -> Iterator[str]:
    """A line an option: its name, and the first sentence of its file."""
    names, default = options(group, config_dir), default_options(command)[group]
    yield f"{group}=NAME, one of {len(names)}{f', by default {default}' if default else ''}:"
    yield ""
    width = max(map(len, names)) + 4
    for name in names:
        path = file_of(group, name, config_dir)
        told = describe.first_sentence(describe.about(path)) if path else ""
        own = f" ({config_dir})" if _own(group, name) else ""
        yield _shortened(f"  {name:<{width - 2}}", f"{told}{own}")
    yield ""
    yield f"`lipcert {command} --help {group}={default or names[0]}` lists the keys of an option."


def _option(group: str, name: str, config_dir: str | None) -> Iterator[str]:
    """What an option is and brings, and a line a key with its value and comment."""
    names = options(group, config_dir)
    if name not in names:
        raise ValueError(f"`{group}={name}`: there is no such option{among(name, names)}")
    known = describe.option(group, name, config_dir)
    yield from _wrapped("", f"{group}={name}: {known.about}" if known.about else f"{group}={name}")
    if known.brings:
        yield ""
        brought = " ".join(f"{key}={value}" for key, value in known.brings.items())
        yield from _wrapped("  ", f"It brings {brought}; what you write wins.", "  ")
    keys = {key: value for key, value in known.keys.items() if not describe.is_inner(key)}
    if keys:
        yield ""
    prefix = "" if describe.is_global(group, name, config_dir) else f"{group}."
    yield from _lines({f"{prefix}{key}={value.value}": value.about for key, value in keys.items()})
    if "_target_" in known.keys:
        yield ""
        yield f"  It is {known.keys['_target_'].value}."


def _key(topic: str, config_dir: str | None) -> Iterator[str]:
    """A line an option that has this key, or keys below it."""
    group, _, key = topic.partition(".")
    found: dict[str, str] = {}
    for name in options(group, config_dir):
        for inner, value in describe.option(group, name, config_dir).keys.items():
            if (inner == key or inner.startswith(f"{key}.")) and not describe.is_inner(inner):
                found[f"{group}={name} {group}.{inner}={value.value}"] = value.about
    if not found:
        meant = [f"{group}={key}"] if key in options(group, config_dir) else []
        raise ValueError(f"`{group}.{key}` is not a key of any option of `{group}`{did_you_mean(meant)}")
    yield f"{group}.{key}, where it is, and its value there:"
    yield ""
    yield from _lines(found)


def _lines(entries: dict[str, str]) -> Iterator[str]:
    """A line an entry with what it is behind it, or below it where it is long."""
    width = min(40, max(map(len, entries), default=0) + 4)
    for entry, told in entries.items():
        head = f"  {entry:<{width - 2}}"
        if len(entry) + 4 > width and told:
            yield from _wrapped("  ", entry, "    ")
            yield from _wrapped(" " * width, told)
        else:
            yield from _wrapped(head, told)


def _wrapped(head: str, text: str, indent: str | None = None) -> list[str]:
    """`head` and `text`, on several lines where they are long; those below begin below the text, or with `indent`."""
    indent = " " * len(head) if indent is None else indent
    lines = textwrap.wrap(text, WIDTH, initial_indent=head, subsequent_indent=indent, **WHOLE_WORDS)
    return lines or [head.rstrip()]


def _shortened(head: str, text: str) -> str:
    return (head + textwrap.shorten(text, WIDTH - len(head), placeholder=" ...")).rstrip()


def _own(group: str, name: str) -> bool:
    """Whether an option is the user's own, and not a shipped one."""
    return file_of(group, name) is None
