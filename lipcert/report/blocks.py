"""What a page is made of. Every text in a block is plain: the template escapes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True)
class Text:
    """A paragraph; `tone` is "", or "note" for what limits a claim."""

    text: str
    tone: str = ""
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Drawing:
    """A figure: `svg` is safe markup without a name, `alt` says in words what it shows, `caption` how to read it."""

    key: str
    svg: str
    alt: str
    caption: str
    beside: bool = True
    kind: ClassVar[str] = "drawing"


@dataclass(frozen=True)
class Row:
    """A row of a table: its heading, its values, and what the numbers mean; `group` for a heading of several rows."""

    name: str
    values: Sequence[str] = ()
    meaning: str = ""
    group: bool = False


@dataclass(frozen=True)
class Grid:
    """A table: `columns` are the headings of the values, `corner` that of the rows. `folded`: it is opened by the
    reader. `beside`: it stands beside a figure where there is room. `words`: its values are sentences."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Row]
    folded: bool = False
    corner: str = "Number"
    beside: bool = False
    words: bool = False
    kind: ClassVar[str] = "grid"


@dataclass(frozen=True)
class Code:
    """Commands or a file, as it is."""

    caption: str
    text: str
    folded: bool = False
    kind: ClassVar[str] = "code"


@dataclass(frozen=True)
class Picture:
    """A small image as a PNG, `png` bytes, with its words."""

    key: str
    png: bytes
    alt: str
    caption: str


@dataclass(frozen=True)
class Card:
    """Pictures that belong together, and (name, value) of what is known of them."""

    title: str
    pictures: Sequence[Picture]
    facts: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Gallery:
    """Cards beside one another."""

    cards: Sequence[Card]
    kind: ClassVar[str] = "gallery"


@dataclass(frozen=True)
class Markup:
    """HTML that the caller of `page.build` answers for."""

    html: str
    kind: ClassVar[str] = "markup"


Piece = Text | Drawing | Grid | Code | Gallery | Markup


@dataclass(frozen=True)
class Section:
    """A heading, which the page links to as `id`, with what stands below it; `level` is that of the heading."""

    id: str
    heading: str
    blocks: Sequence[Piece]
    level: int = 2
    sections: Sequence[Section] = field(default=())
