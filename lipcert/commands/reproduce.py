"""`lipcert reproduce`: the papers' tables, and the commands that train their rows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from lipcert.configuration import nearest
from lipcert.reporting import published


def run(
    *, table: dict[str, Any] | None, rows: list[str] | None, output_dir: str, seed: int, data_dir: str | None
) -> None:
    """The command: lists the tables, or prints one as it was published and below it the commands of its rows.

    table       the content of a file of conf/table; None lists all of them
    rows        the names of those rows whose commands are printed; None: of all
    output_dir  where the runs of those commands go, each in <table>/<row>
    data_dir    where the printed commands look for data sets; None leaves that to them

    ValueError for a name in `rows` that the table does not have, and where its content is not as it must be. `seed` is
    a keyword of every command, and of no use here.
    """
    console = Console(width=max(120, Console().width))
    if table is None:
        list_tables(console)
        return
    chosen = published.read(table, "`table`")
    for name in rows or ():
        if name not in chosen.rows:
            raise ValueError(f"`rows`: {chosen.name} has no row {name}{nearest(name, list(chosen.rows))}")
    console.print(f"{chosen.title}\n{chosen.source}, {chosen.place}", markup=False, highlight=False)
    console.print(as_printed(chosen))
    for line in remarks(chosen):
        console.print(line, markup=False, highlight=False)
    more = [] if data_dir is None else [f"data_dir={data_dir}"]
    for name in rows or chosen.rows:
        row = chosen.rows[name]
        lines = list(chosen.commands(row, f"{output_dir}/{chosen.name}/{name}", *more))
        print(f"\n# {name}: {row.title}", *(lines or ["# published only: nothing is trained for it"]), sep="\n")


def list_tables(console: Console) -> None:
    """Prints the name and title of every shipped table, by paper."""
    for paper, tables in groupby(map(published.load, published.names()), key=lambda table: table.source):
        console.print(f"\n{paper}", markup=False, highlight=False)
        for table in tables:
            trained = sum(row.trained for row in table.rows.values())
            rows = "1 row" if len(table.rows) == 1 else f"{len(table.rows)} rows"
            rows += f", {trained} of them trained" if trained < len(table.rows) else ""
            line = f"  {table.name:<18} {table.place}. {table.title} ({rows})"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print("\nOne of them, and the commands of its rows: lipcert reproduce table=NAME", highlight=False)


def as_printed(table: published.Table) -> RichTable:
    """The table as it was published. `?` marks a value not to be relied on, `>` one that is a lower bound."""
    printed = RichTable(box=box.SIMPLE_HEAD)
    printed.add_column("row", overflow="fold")
    printed.add_column("", overflow="fold")
    for column in table.columns.values():
        printed.add_column(escape(column.title), justify="right")
    for row in table.rows.values():
        cells = []
        for name in table.columns:
            value = f"{row.published[name]:g}" if name in row.published else ""
            cells.append(f"{'> ' if name in row.at_least else ''}{value}{' ?' if name in row.uncertain else ''}")
        printed.add_row(row.name, escape(row.title), *cells)
    return printed


def remarks(table: published.Table) -> Iterator[str]:
    """What is to be said of the table: its note, those of columns and rows, uncertain values, and its claims."""
    if table.note:
        yield table.note
    for column in table.columns.values():
        if column.note:
            yield f"{column.title}: {column.note}"
    for row in table.rows.values():
        if row.note:
            yield f"{row.name}: {row.note}"
        for name, reason in row.uncertain.items():
            yield f"{row.name}, {table.columns[name].title}: {reason}"
    for claim in table.claims:
        yield f"Claim: {claim}"
