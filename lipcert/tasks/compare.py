"""`lipcert compare`: one table and one plot over any number of runs."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from lipcert.reporting.curves import overlay_figure, save_png
from lipcert.reporting.files import write_atomic
from lipcert.reporting.groups import group_by_seed, group_names
from lipcert.reporting.runs import find_runs
from lipcert.reporting.table import comparison
from lipcert.tasks import store


def run(*, runs: list[str], output_dir: str, seed: int, data_dir: str | None) -> None:
    """The command: prints the table, and writes compare.md, compare.csv and curves.png."""
    if not runs:
        raise ValueError("`lipcert compare` needs runs: directories, globs or sweep directories")
    found = find_runs(runs)
    table = comparison(found)
    groups = group_by_seed(found)
    names = {run.path: name for name, group in zip(group_names(groups)[0], groups, strict=True) for run in group}
    figure = overlay_figure(found, [names[run.path] for run in found])  # one colour and one name for all seeds
    directory = Path(output_dir)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_atomic(directory / "compare.md", table.markdown())
        write_atomic(directory / "compare.csv", table.csv())
        save_png(figure, directory / store.CURVES)
    except OSError as error:
        raise ValueError(f"`output_dir`: {directory} cannot be written ({error.strerror or error})") from None
    console = Console(width=max(120, Console().width))  # narrower, and rich would cut numbers off
    console.print(table.rich())
    console.print(f"written: {directory}", soft_wrap=True, highlight=False)
