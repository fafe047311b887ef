"""Lets mkdocstrings show our docstrings: their lists of arguments as lists, and their examples as code.

Our form is plain text (`CONTRIBUTING.md`): paragraphs, one of which may be a list of names, each followed by two spaces
or more and what it means, and examples that begin with >>>. Markdown takes both for something else.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

FLAGS = re.compile(r" *# doctest: .*")
PAGE = re.compile(r"docs/([\w/]+\.md)")
NAMED = re.compile(r"(?P<names>[*\w]+(?:, [*\w]+)*) {2,}(?P<says>\S.*)")


class Docstrings(griffe.Extension):
    """Rewrites each docstring as markdown, once it is read."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(docstring: str) -> str:
    """The same text, as markdown that shows it as it is meant."""
    return "\n\n".join(map(_paragraph, docstring.split("\n\n")))


def _paragraph(text: str) -> str:
    lines = text.splitlines()
    if lines[0].startswith(">>> "):
        return "\n".join(("```pycon", *(FLAGS.sub("", line) for line in lines), "```"))
    if not NAMED.fullmatch(lines[0]):
        return PAGE.sub(r"[\g<0>](\g<1>)", text)
    items: list[str] = []
    for line in lines:
        named = NAMED.fullmatch(line)
        if named:
            names = ", ".join(f"`{name}`" for name in named["names"].split(", "))
            items.append(f"- {names}: {named['says']}")
        else:  # the rest of the item before
            items[-1] += f" {line.strip()}"
    return "\n".join(items)
