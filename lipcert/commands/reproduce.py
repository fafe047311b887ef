"""`lipcert reproduce`: the papers' tables, trained row by row, ours beside what was published."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console

from lipcert import files
from lipcert.errors import RowsFailed
from lipcert.reporting import published
from lipcert.reproduction import claims, printing
from lipcert.reproduction.cells import cells
from lipcert.reproduction.jobs import Job, jobs, scale_of
from lipcert.reproduction.measured import measure, with_quoted
from lipcert.reproduction.running import run_jobs


def run(
    *,
    table: dict[str, Any] | None,
    scale: str,
    rows: list[str] | None,
    seeds: int | None,
    print: bool,
    output_dir: str | None,
    seed: int,
    data_dir: str | None,
) -> None:
    """The command: lists the tables, or runs the rows of one and prints ours beside what was published.

    table       the content of a file of conf/table; None lists all of them
    scale       full, which is the paper's, or laptop
    rows        the names of those rows alone; None: all of them
    seeds       how many, from 0 on; None: those that the table says
    print       only prints the commands
    output_dir  where the runs go, each in <table>/<scale>/<row>/seed=<seed>
    data_dir    where data sets lie; None leaves that to the commands

    ValueError for a name in `rows` that the table does not have, and where its content is not as it must be;
    RowsFailed where a row could not be computed. `seed` is a keyword of every command, and of no use here.
    """
    console = Console(width=max(120, Console().width))
    if table is None:
        list_tables(console)
        return
    chosen = published.read(table, "`table`")
    of, place = scale_of(chosen, scale), Path(output_dir or "outputs/reproduce")
    due = jobs(chosen, scale, rows, seeds, place, data_dir)
    if print:
        show_commands(due)
        return
    folder = place / chosen.name / scale
    failed = run_jobs(due, folder, _tell) if due else []
    values = measure(chosen, of, jobs(chosen, scale, None, seeds, place, data_dir))
    found = cells(chosen, values)
    known = with_quoted(chosen, values)
    judged = [(c.text, claims.judge(c.test, known) if c.test else claims.UNTESTED) for c in chosen.claims]
    console.print(f"{chosen.title}\n{chosen.source}, {chosen.place}", markup=False, highlight=False)
    console.print(printing.for_terminal(chosen, found))
    lines = [*remarks(chosen), *([f"At this scale: {of.note}"] if of.note else [])]
    for line in [*lines, *printing.verdicts(chosen, found, judged)]:
        console.print(line, markup=False, highlight=False)
    if due:
        folder.mkdir(parents=True, exist_ok=True)
        page = [f"# {chosen.title}", "", f"{chosen.source}, {chosen.place}. Scale: {scale}.", ""]
        page += [*printing.as_markdown(chosen, found), "", *lines, "", *printing.verdicts(chosen, found, judged), ""]
        files.write_atomic(folder / "table.md", "\n".join(page))
        files.write_atomic(folder / "table.csv", printing.as_csv(chosen, found))
        console.print(f"written: {folder}/table.md, table.csv", markup=False, highlight=False)
    if failed:
        raise RowsFailed(f"{len(failed)} of {len(due)} jobs failed, first {failed[0]}; logs are in {folder / 'logs'}")


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}{os.linesep}")
    sys.stderr.flush()


def show_commands(due: list[Job]) -> None:
    """Prints the commands of each job, as a shell takes them."""
    for name, mine in groupby(due, key=lambda job: job.row.name):
        of_row = list(mine)
        lines = [f"# {name}: {of_row[0].row.title}", *(line for job in of_row for line in job.shell())]
        sys.stdout.write("\n" + "\n".join(lines) + "\n")


def list_tables(console: Console) -> None:
    """Prints the name and title of every shipped table, by paper."""
    for paper, tables in groupby(map(published.load, published.names()), key=lambda table: table.source):
        console.print(f"\n{paper}", markup=False, highlight=False)
        for table in tables:
            trained = sum(row.trained for row in table.rows.values())
            rows = "1 row" if len(table.rows) == 1 else f"{len(table.rows)} rows"
            rows += f", {trained} of them trained" if trained < len(table.rows) else ""
            laptop = "" if table.laptop is None else "; scale=laptop"
            if table.laptop is not None and table.laptop.minutes is not None:
                laptop += f" takes {table.laptop.minutes:g} minutes of a processor"
            line = f"  {table.name:<18} {table.place}. {table.title} ({rows}{laptop})"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print("\nOne of them, trained: lipcert reproduce table=NAME; its commands: print=true", highlight=False)


def remarks(table: published.Table) -> Iterator[str]:
    """What is to be said of the table: its note, those of columns and rows, uncertain values."""
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
