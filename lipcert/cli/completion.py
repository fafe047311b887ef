"""`lipcert completion`: the script for a shell, and the candidates for the word that is being typed.

Commands, groups, options and paths are found without Hydra; keys by composing what has been chosen so far.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from lipcert.cli import describe
from lipcert.cli.arguments import flag_actions
from lipcert.cli.choices import Chosen, chosen, file_of, options
from lipcert.cli.meant import did_you_mean, options_meant
from lipcert.cli.shells import SHELLS
from lipcert.runs.directory import is_run

Candidate = tuple[str, str]  # the whole word, and what it is; a word that ends with = . or / is not at its end

MOST = 1000  # entries of a directory that are looked at
RUNS = ("run", "resume", "other")  # keys whose value is a run's directory
# Last words of keys whose value is a path.
PATHS = ("data_dir", "folder", "output", "output_dir", "path", "separation", "check")
VALUES = {  # of keys by their last word, where neither a group nor a comment lists them
    "accelerator": ("auto", "cpu", "gpu"),
    "analysis": ("tightness", "stability", "hybrid", "deciles"),
    "device": ("cpu", "cuda"),
    "gradients": ("image", "batch"),
    "format": ("folder", "onnx", "torch"),
    "precision": ("32-true", "64-true", "16-mixed", "bf16-mixed"),
    "split": ("test", "val", "train"),
}


def completion(arguments: Sequence[str], commands: Mapping[str, str]) -> str:
    """What `lipcert completion ...` prints: a shell's script, or after --words a line a candidate.

    arguments  a shell's name; or --words and the words behind `lipcert`, of which the last is being typed
    commands   what each command is

    ValueError where no shell is named.
    """
    if arguments and arguments[0] == "--words":
        try:
            found = list(candidates(list(arguments[1:]) or [""], commands))
        except Exception:  # a prompt is no place for it; the command itself will say what is wrong
            return ""
        return "\n".join(f"{word}\t{' '.join(about.split())}" for word, about in found)
    if arguments in (["-h"], ["--help"]):
        lines = "\n".join(f"  {shell:<6}{_how(script)}" for shell, script in SHELLS.items())
        return f"Prints a script that lets a shell complete commands, groups, options and keys:\n\n{lines}"
    name = arguments[0] if arguments else ""
    if len(arguments) != 1 or name not in SHELLS:
        meant = did_you_mean(options_meant(name, list(SHELLS))) if name else ""
        raise ValueError(f"`{' '.join(['completion', *arguments])}`: name one shell{meant} ({', '.join(SHELLS)})")
    return SHELLS[name].rstrip()


def _how(script: str) -> str:
    """The command that installs a script for the running shell: the first one in its comment."""
    return script.partition("#   ")[2].partition("\n")[0]


def candidates(words: list[str], commands: Mapping[str, str]) -> Iterator[Candidate]:
    """What the last of the words behind `lipcert` may become, with what it is."""
    *before, typed = words
    if not before:
        more = {"completion": "a script for bash, zsh or fish", "--help": "", "--version": ""}
        found: Iterable[Candidate] = [*commands.items(), *more.items()]
    elif before[0] == "completion":
        found = [(shell, _how(script)) for shell, script in SHELLS.items()]
    elif before[0] in commands:
        found = _of_command(before[0], before[1:], typed)
    else:
        found = []
    yield from (candidate for candidate in found if candidate[0].startswith(typed))


def _of_command(command: str, before: list[str], typed: str) -> Iterator[Candidate]:
    config_dir = _config_dir(before)
    flags = {name: action for action in flag_actions() for name in action.option_strings}
    previous = flags.get(before[-1]) if before else None
    if previous is not None and previous.nargs != 0:  # it takes a value
        yield from [(choice, "") for choice in previous.choices] if previous.choices else _paths("", typed)
    elif typed.startswith("--config-dir="):
        yield from _paths("--config-dir=", typed.partition("=")[2])
    elif typed.startswith("-"):
        yield from ((name, action.help or "") for name, action in flags.items())
    elif {"--help", "-h"} & {*before} and "=" not in typed and "." not in typed:
        yield from ((group, "") for group in describe.command(command).brings)
    elif "=" in typed and "/" not in typed.partition("=")[0]:
        yield from _values(command, before, typed, config_dir)
    elif "." in typed and "/" not in typed:
        config = _config(command, before, config_dir)
        keys = (key for key, value in config.values.items() if "." in key and not (isinstance(value, dict) and value))
        told = ((key, _about(command, key, config, config_dir)) for key in keys if not describe.is_inner(key))
        yield from ((f"{_signs(typed)}{key}=", about) for key, about in told)
    else:
        known, signs = describe.command(command), _signs(typed)
        yield from ((f"{signs}{group}=", f"one of {len(options(group, config_dir))}") for group in known.brings)
        own = {key: key.partition(".")[0] for key in known.keys}
        yield from ((f"{signs}{key}=", known.keys[key].about) for key in own if key == own[key] not in known.brings)
        yield from ((f"{signs}{head}.", "keys below it") for head in sorted({*own.values()} - {*own, *known.brings}))
        if command in ("compare", "report"):
            yield from _runs("", typed)
        if command == "verify":
            yield from _paths("", typed)


def _values(command: str, before: list[str], typed: str, config_dir: str | None) -> Iterator[Candidate]:
    """What may stand behind the = of a group or of a key."""
    key, _, value = typed.partition("=")
    name = key.lstrip("+").partition("@")[0]
    if names := options(name, config_dir):
        files = {option: path for option in names if (path := file_of(name, option, config_dir))}
        told = {option: describe.first_sentence(describe.about(path)) for option, path in files.items()}
        yield from _listed(key, value, told)
    elif name in RUNS:
        yield from _runs(f"{key}=", value)
    elif name.rpartition(".")[2] in PATHS:
        yield from _paths(f"{key}=", value, "*.npz" if name == "dataset.path" else "")
    else:
        yield from _listed(key, value, _of_key(command, name, before, config_dir))


def _of_key(command: str, key: str, before: list[str], config_dir: str | None) -> dict[str, str]:
    """The values that a key may have, as far as they are known: those of a list, or the one it has by itself."""
    if "." in key:
        config = _config(command, before, config_dir)
        now, about = config.values.get(key), _about(command, key, config, config_dir)
    else:
        now, about = describe.command(command).keys.get(key, describe.Key("null", ""))
    text = str(now).lower() if isinstance(now, bool) else str(now)
    if text in ("true", "false"):
        return {"true": "", "false": ""} | {text: "by default"}
    if listed := VALUES.get(key.rpartition(".")[2]):
        return dict.fromkeys(listed, "")
    if other := re.match(r"or ([\w-]+)", about):  # "ce # or margin"
        return {text: "by default", other[1]: ""}
    return {} if text in ("None", "null", "???") or isinstance(now, dict) or "$" in text else {text: "by default"}


def _listed(key: str, value: str, choices: Mapping[str, str]) -> Iterator[Candidate]:
    """The choices behind the last comma of a list that is being typed, without those that stand before it."""
    done = value.rpartition(",")[0]
    listed = done.split(",") if done else []
    yield from ((f"{key}={','.join([*listed, name])}", about) for name, about in choices.items() if name not in listed)


def _paths(head: str, typed: str, files: str = "") -> Iterator[Candidate]:
    """The directories that begin with what was typed, and files of one pattern."""
    folder = typed[: typed.rfind("/") + 1]
    for path in _entries(Path(folder or "."), typed.startswith(f"{folder}.")):
        if path.is_dir():
            yield f"{head}{folder}{path.name}/", ""
        elif files and path.match(files):
            yield f"{head}{folder}{path.name}", ""


def _runs(head: str, typed: str) -> Iterator[Candidate]:
    """The runs and other directories that begin with what was typed; before anything is, those below outputs/train."""
    for word, about in _paths(head, typed):
        run = is_run(Path(word.removeprefix(head)))
        yield (word.rstrip("/"), "a run") if run else (word, about)
    if not typed:
        for place in ("outputs/train/*/config.yaml", "outputs/train/*/*/config.yaml"):
            yield from ((f"{head}{path.parent}", "a run") for path in sorted(Path().glob(place))[-MOST:])


def _entries(folder: Path, hidden: bool) -> list[Path]:
    try:
        found = sorted(folder.iterdir())[:MOST]
    except OSError:
        return []
    return [path for path in found if hidden or not path.name.startswith(".")]


def _config(command: str, before: list[str], config_dir: str | None) -> Chosen:
    return chosen(command, [word for word in before if "=" in word], config_dir)


def _config_dir(words: list[str]) -> str | None:
    for flag, value in itertools.pairwise([*words, ""]):
        if flag in ("--config-dir", "-cd"):
            return value or None
        if flag.startswith("--config-dir="):
            return flag.partition("=")[2]
    return None


def _about(command: str, key: str, config: Chosen, config_dir: str | None) -> str:
    """The comment on a key of the command itself, or of an option that was chosen."""
    group, _, inner = key.partition(".")
    option = config.options.get(group)
    keys = describe.option(group, option, config_dir).keys if option else {}
    known = keys.get(inner) or describe.command(command).keys.get(key)
    return known.about if known else ""


def _signs(word: str) -> str:
    """The + or ~ before a key."""
    return word[: len(word) - len(word.lstrip("+~"))]
