"""`lipcert compare`: one table and one plot over any number of runs."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from lipcert.reporting.curves import overlay_figure, save_png
from lipcert.reporting.errors import errors_figure
from lipcert.reporting.files import write_atomic
from lipcert.reporting.groups import group_by_seed, group_names
from lipcert.reporting.rows import read_rows
from lipcert.reporting.runs import find_runs
from lipcert.reporting.separation import SeparationRow, stability_curve
from lipcert.reporting.table import comparison
from lipcert.tasks import store

ERRORS = "errors.png"


def run(*, runs: list[str], separation: str | None, output_dir: str, seed: int, data_dir: str | None) -> None:
    """The command: prints the table, and writes compare.md, compare.csv, curves.png, and errors.png where an attack has
    looked for smallest distances. `separation` is what `lipcert separation` wrote."""
    if not runs:
        raise ValueError("`lipcert compare` needs runs: directories, globs or sweep directories")
    found = find_runs(runs)
    beside = stability_curve(separation_rows(Path(separation))) if separation else None
    table = comparison(found)
    groups = group_by_seed(found)
    titles = group_names(groups)[0]
    names = {run.path: name for name, group in zip(titles, groups, strict=True) for run in group}
    figure = overlay_figure(found, [names[run.path] for run in found])  # one colour and one name for all seeds
    errors = errors_figure(groups, titles, beside)
    directory = Path(output_dir)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_atomic(directory / "compare.md", table.markdown())
        write_atomic(directory / "compare.csv", table.csv())
        save_png(figure, directory / store.CURVES)
        if errors:
            save_png(errors, directory / ERRORS)
    except OSError as error:
        raise ValueError(f"`output_dir`: {directory} cannot be written ({error.strerror or error})") from None
    console = Console(width=max(120, Console().width))  # narrower, and rich would cut numbers off
    console.print(table.rich())
    console.print(f"written: {directory}", soft_wrap=True, highlight=False)


def separation_rows(path: Path) -> list[SeparationRow]:
    """Those of separation.csv, or of the directory that it lies in."""
    file = path / "separation.csv" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"`separation`: {file} is not there; `lipcert separation dataset=NAME` writes it")
    return read_rows(file, SeparationRow)
