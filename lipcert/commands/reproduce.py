"""`lipcert reproduce`: the papers' tables, trained row by row, ours beside what was published."""

from __future__ import annotations

import contextlib
import os
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console

from lipcert import files
from lipcert.errors import RowsFailed
from lipcert.reporting import published
from lipcert.reproduction import page, printing
from lipcert.reproduction.jobs import SMOKE, Job, jobs
from lipcert.reproduction.report import Found, of_paper, render
from lipcert.reproduction.running import one_process, run_jobs

OUTPUT = "outputs/reproduce"


def run(
    *,
    table: dict[str, Any] | None,
    scale: str,
    rows: list[str] | None,
    seeds: int | None,
    print: bool,
    output_dir: str | None,
    results_dir: str | None,
    seed: int,
    data_dir: str | None,
) -> None:
    """The command: lists the tables, or runs the rows of one and prints ours beside what was published.

    table       the content of a file of conf/table; None lists all of them
    scale       full, which is the paper's, laptop, or smoke: each row in seconds on noise, to see that it runs
    rows        the names of those rows alone; None: all of them
    seeds       how many, from 0 on; None: those that the table says
    print       only prints the commands
    output_dir  where the runs go, each in <table>/<scale>/<row>/seed=<seed>
    results_dir where the table's page, numbers and figure are written as well, in <table>/<scale>; None: nowhere
    data_dir    where data sets lie; None leaves that to the commands

    ValueError for a name in `rows` that the table does not have, and where its content is not as it must be;
    RowsFailed where a row could not be computed. `seed` is a keyword of every command, and of no use here.
    """
    console = Console(width=max(120, Console().width))
    if table is None:
        list_tables(console, Path(output_dir or OUTPUT))
        return
    chosen = published.read(table, "`table`")
    place = Path(output_dir or OUTPUT)
    due = jobs(chosen, scale, rows, seeds, place, data_dir)
    if print:
        show_commands(due)
        return
    folder = place / chosen.name / scale
    failed = _run(due, scale)
    if scale == SMOKE:
        console.print(f"{chosen.name}: {len(due) - len(failed)} of {len(due)} rows ran, on noise", highlight=False)
        check(failed, due)
        return
    found = Found(chosen, scale, seeds, place, data_dir)
    console.print(f"{chosen.title}\n{chosen.source}, {chosen.place}", markup=False, highlight=False)
    console.print(printing.for_terminal(chosen, found.cells))
    lines = [*printing.remarks(chosen), *([f"At this scale: {found.of.note}"] if found.of.note else [])]
    reading = [f"Our reading: {found.of.reading}"] if found.of.reading else []
    for line in [*lines, *printing.verdicts(found.cells, found.claims), *reading]:
        console.print(line, markup=False, highlight=False)
    if not found.jobs:  # nothing of this table is computed here
        return
    for where in [folder, *([Path(results_dir) / chosen.name / scale] if results_dir else [])]:
        page.write(chosen, scale, found.of, found.cells, found.claims, found.jobs, where)
        console.print(f"written: {where}/{page.PAGE}", markup=False, highlight=False)
    paper = place / chosen.name.partition("/")[0]
    if tables := of_paper(paper.name, scale, place):
        files.write_atomic(paper / f"{scale}.html", render(tables))
        console.print(f"written: {paper}/{scale}.html, for a browser", markup=False, highlight=False)
    if results_dir:
        console.print(f"written: {page.write_index(Path(results_dir))}", markup=False, highlight=False)
    check(failed, due)


def _run(due: list[Job], scale: str) -> list[str]:
    if not due:
        return []
    with one_process() if scale == SMOKE else contextlib.nullcontext() as runner:
        return run_jobs(due, _tell, runner)


def check(failed: list[str], due: list[Job]) -> None:
    """RowsFailed where jobs failed."""
    if failed:
        raise RowsFailed(f"{len(failed)} of {len(due)} jobs failed, first {failed[0]}")


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}{os.linesep}")
    sys.stderr.flush()


def show_commands(due: list[Job]) -> None:
    """Prints the commands of each job, as a shell takes them."""
    for name, mine in groupby(due, key=lambda job: job.row.name):
        of_row = list(mine)
        lines = [f"# {name}: {of_row[0].row.title}", *(line for job in of_row for line in job.shell())]
        sys.stdout.write("\n" + "\n".join(lines) + "\n")


def list_tables(console: Console, output: Path) -> None:
    """Prints every shipped table by paper: what it is, what a laptop takes for it, its claims, what was measured."""
    for paper, tables in groupby(map(published.load, published.names()), key=lambda table: table.source):
        console.print(f"\n{paper}", markup=False, highlight=False)
        for table in tables:
            trained = sum(row.trained for row in table.rows.values())
            rows = "1 row" if len(table.rows) == 1 else f"{len(table.rows)} rows"
            rows += f", {trained} of them trained" if trained < len(table.rows) else ""
            laptop = "" if table.laptop is None else "; scale=laptop"
            if table.laptop is not None and table.laptop.minutes is not None:
                laptop += f" takes {table.laptop.minutes:g} minutes of a processor"
            lines = [f"  {table.name:<18} {table.place}. {table.title} ({rows}{laptop})"]
            lines += [f"{'':<21}claim: {claim.text}" for claim in table.claims]
            lines += [f"{'':<21}{line}" for line in page.results(output / table.name)]
            for line in lines:
                console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print("\nOne of them, trained: lipcert reproduce table=NAME; its commands: print=true", highlight=False)
