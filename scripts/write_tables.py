"""Writes the tables of the documentation that say what the code says, into their pages. Usage: write_tables.py

A page has `<!-- table: WHICH -->`, the table, and `<!-- end of table -->`. WHICH is one of:

options GROUP      the options of a group of conf/, with what they bring
settings COMMAND   what can be set for a command besides its groups
summary            the keys of summary.json
manifest           the keys of manifest.json of an exported network
files PACKAGE      the files of a package, with the first sentence of each
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path

from lipcert.cli import describe
from lipcert.cli.choices import options
from lipcert.runs.summary import KEYS

ROOT = Path(__file__).parents[1]
TABLE = re.compile(r"(<!-- table: (.+?) -->\n).*?(<!-- end of table -->)", re.S)


def written(page: str) -> str:
    """A page, from its text, with the tables that are due."""
    return TABLE.sub(lambda found: f"{found[1]}\n{table(*found[2].split())}\n{found[3]}", page)


def table(which: str, of: str = "") -> str:
    writers = {"options": option_rows, "settings": setting_rows, "files": file_rows, "summary": summary_rows}
    rows = (writers | {"manifest": manifest_rows})[which](of)
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows)


def option_rows(group: str) -> Iterable[tuple[str, ...]]:
    found = {name: describe.option(group, name) for name in options(group)}
    bring = any(option.brings for option in found.values())
    yield (f"`{group}=`", "what it is", "what it brings")[: 2 + bring]
    yield ("---",) * (2 + bring)
    for name, option in found.items():
        brings = ", ".join(f"`{key}={value}`" for key, value in option.brings.items() if "@" not in key)
        yield (f"`{name}`", sentence(option.about), brings)[: 2 + bring]


def setting_rows(command: str) -> Iterable[tuple[str, ...]]:
    yield from (("key", "by default", "what it is"), ("---",) * 3)
    for name, key in describe.command(command).keys.items():
        yield f"`{name}`", f"`{key.value}`", sentence(key.about)


def file_rows(package: str) -> Iterable[tuple[str, ...]]:
    yield from (("file", "what it is"), ("---",) * 2)
    folder = ROOT / package
    for path in sorted(folder.rglob("*.py"), key=lambda path: (path.parent != folder, path)):
        if path.name != "__init__.py":
            told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            yield f"`{path.relative_to(folder)}`", sentence(told.split("\n\n")[0].replace("\n", " "))


def summary_rows(_: str) -> Iterable[tuple[str, ...]]:
    yield from (("key", "what it says"), ("---",) * 2)
    for key, meaning in KEYS.items():
        yield f"`{key}`", meaning


def manifest_rows(_: str) -> Iterable[tuple[str, ...]]:
    from lipcert.export import manifest  # which imports torch

    yield from (("key", "what it says"), ("---",) * 2)
    for key, (_, meaning) in manifest.KEYS.items():
        yield f"`{key}`", meaning


def sentence(text: str) -> str:
    """The first sentence, with what markdown would read as its own kept as it is."""
    return re.sub(r"([*_\[<])", r"\\\1", re.sub(r"`[^`]*`", hidden, describe.first_sentence(text))).translate(SHOW)


HIDE = str.maketrans("*_[<", "\ue000\ue001\ue002\ue003")  # within backticks, where nothing is escaped
SHOW = str.maketrans("\ue000\ue001\ue002\ue003", "*_[<")


def hidden(code: re.Match[str]) -> str:
    return code[0].translate(HIDE)


def main() -> None:
    for path in sorted((ROOT / "docs").rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        if (new := written(text)) != text:
            path.write_text(new, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
