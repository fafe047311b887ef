"""Runs the commands and programs of a page of the documentation, and compares what they print with what the page shows.

Usage: run_docs.py PAGE [--write]

All blocks of a page run in the page's order in one directory, empty at first. By its language a block is:

sh                 run by bash; not if the line before it is <!-- long -->, or another such mark
python             run; all of a page share their variables, and import what the page has written
any, with a title  written to the file that its title names
text               what the block before it prints. Numbers may differ; a line … stands for any number of lines

`--write` puts what was printed in place of what the page shows.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

BLOCK = re.compile(
    r'^(?:<!-- (?P<mark>.*?) -->\n)?```(?P<language>\w*)(?: title="(?P<title>[^"\n]+)")?\n(?P<body>.*?)^```$',
    re.M | re.S,
)
NUMBER = re.compile(r"\d(?:[\d.,_-]*\d)?(?:e[+-]?\d+)?|─+")  # and the lines of tables, as wide as their numbers
MORE = "…"
COLUMNS = "100"  # the width of tables on a terminal


class Block(NamedTuple):
    """A fenced block of a page. `mark` is that of the comment before it, `at` where its body is in the page."""

    mark: str
    language: str
    title: str
    body: str
    at: tuple[int, int]

    @property
    def is_run(self) -> bool:
        return self.language in ("sh", "python") and not self.title and not self.mark


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page, from its text."""
    for found in BLOCK.finditer(page):
        mark, language, title, body = (found[key] or "" for key in ("mark", "language", "title", "body"))
        yield Block(mark, language, title, body, found.span("body"))


def run(page: str) -> str:
    """Runs a page, from its text, in the current directory. Returns the text with what was printed.

    Raises ValueError where a block fails, or prints something else than the page shows.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    printed, before, changes = "", Block("", "", "", "", (0, 0)), []
    for block in blocks(page):
        if block.title:
            Path(block.title).parent.mkdir(parents=True, exist_ok=True)
            Path(block.title).write_text(block.body, encoding="utf-8")
        elif block.is_run:
            printed = run_shell(block.body) if block.language == "sh" else run_python(block.body, names)
        elif block.language == "text" and before.is_run and not block.mark:
            changes.append((block.at, shown(block.body, printed)))
        before = block
    for (start, end), text in reversed(changes):
        page = page[:start] + text + page[end:]
    return page


def run_shell(commands: str) -> str:
    """What the commands print; their messages on stderr are no part of it. ValueError where one fails."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "COLUMNS": COLUMNS, "NO_COLOR": "1", "TERM": "dumb"}
    script = ["bash", "-euo", "pipefail", "-c", commands]
    done = subprocess.run(script, env=environment, text=True, stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode:
        raise ValueError(f"status {done.returncode} of\n{commands}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def run_python(program: str, names: dict[str, Any]) -> str:
    """What the program prints, which leaves its variables in `names`."""
    if "" not in sys.path:
        sys.path.insert(0, "")
    with redirect_stdout(io.StringIO()) as out:
        exec(compile(program, "<block>", "exec"), names)
    return out.getvalue()


def shown(page: str, printed: str) -> str:
    """What a page shows, with the lines that were printed. ValueError where these say something else."""
    rest, found, skipping = iter([line.rstrip() for line in printed.splitlines() if line.strip()]), [], False
    for line in page.splitlines():
        if line.strip() in ("", MORE):
            found.append(line)
            skipping = skipping or line.strip() == MORE
            continue
        match = next((new for new in rest if alike(new, line) or not skipping), None)
        if match is None or not alike(match, line):
            raise ValueError(f"the page shows\n{page}\nbut printed was\n{printed}\nfirst difference: {line}")
        found.append(match)
        skipping = False
    if not skipping and (surplus := next(rest, None)) is not None:
        raise ValueError(f"the page ends with\n{page}\nbut printed was\n{printed}\nfirst surplus: {surplus}")
    return "".join(f"{line}\n" for line in found)


def alike(a: str, b: str) -> bool:
    """Whether two lines say the same, but for their numbers and spaces."""
    a, b = (" ".join(NUMBER.sub("#", line).split()) for line in (a, b))
    return a == b


def main() -> None:
    page = Path(sys.argv[1]).resolve()
    text = page.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        result = run(text)
    if "--write" in sys.argv[2:]:
        page.write_text(result, encoding="utf-8")


if __name__ == "__main__":
    main()
