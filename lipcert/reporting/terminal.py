"""Tables on the terminal. However narrow it is, no number is cut or broken: what is too wide becomes several tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from lipcert.reporting.table import MISSING, Table

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

NARROWEST, UNLIMITED = 60, 100_000  # characters
HEADING = 12  # a heading that is longer than this, and than the numbers below it, is broken between its words
GAP = 3  # between columns


def console() -> Console:
    """A console as wide as the terminal, or without a limit where the output goes to a file or to another program."""
    from rich.console import Console

    found = Console()
    return Console(width=max(NARROWEST, found.width) if found.is_terminal else UNLIMITED)


def fitted(table: Table, width: int) -> Iterator[RenderableType]:
    """A table for a terminal of `width` characters: one for each block of columns, or as many as it takes.

    Names are broken where they have to be; columns of numbers go to a further table where they do not fit. A block has
    no row for a name that it says nothing of.
    """
    from rich.cells import cell_len
    from rich.text import Text

    names, seeds, *cells = map(list, zip(*table.shown(), strict=True))
    columns = [(c.at or c.heading, mine, c.block) for c, mine in zip(table.columns, cells, strict=True)]
    if any(n > 1 for n in table.seeds):
        columns.insert(0, ("seeds", seeds, table.columns[0].block))
    widths = [max(map(len, [*mine, *_lines(heading)])) for heading, mine, _ in columns]
    word = max(cell_len(part) for name in names for part in name.split(" "))
    name_width = max(1, min(max(map(cell_len, names)), max(width // 3, word), width - GAP - max(widths)))
    for block in dict.fromkeys(block for *_, block in columns):
        waiting = [j for j, column in enumerate(columns) if column[2] == block]
        rows = [i for i in range(len(names)) if any(columns[j][1][i] != MISSING for j in waiting)]
        if block:
            yield Text(block)
        while waiting:
            taken = [waiting.pop(0)]
            used = name_width + GAP + widths[taken[0]]
            while waiting and used + GAP + widths[waiting[0]] <= width:
                taken.append(waiting.pop(0))
                used += GAP + widths[taken[-1]]
            headings = [(columns[j][0], widths[j]) for j in taken]
            yield _grid(headings, name_width, [[names[i], *(columns[j][1][i] for j in taken)] for i in rows])
            yield ""
    if table.note:
        yield Text(table.note)


def _lines(heading: str, width: int = HEADING) -> list[str]:
    return wrap(heading, max(width, HEADING), break_long_words=False, break_on_hyphens=False)


def _grid(columns: Sequence[tuple[str, int]], name_width: int, rows: Sequence[Sequence[str]]) -> RenderableType:
    """A table of names and numbers; each column of numbers has its heading and width."""
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    grid.add_column(width=name_width, overflow="fold")
    for heading, width in columns:
        grid.add_column(Text("\n".join(_lines(heading, width))), width=width, justify="right", no_wrap=True)
    for row in rows:
        grid.add_row(*map(Text, row))
    return grid
