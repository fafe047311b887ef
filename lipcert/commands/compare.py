"""`lipcert compare`: one table and one plot over any number of runs."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from lipcert.analyses.separation.figures import stability_curve
from lipcert.analyses.separation.rows import read_separation
from lipcert.files import write_atomic
from lipcert.reporting.curves import overlay_figure
from lipcert.reporting.error_curves import errors_figure
from lipcert.reporting.groups import group_by_seed, group_names
from lipcert.reporting.plotting import png
from lipcert.reporting.table import comparison
from lipcert.runs.find import find_runs

TABLE, NUMBERS, CURVES, ERRORS = "compare.md", "compare.csv", "curves.png", "errors.png"


def run(*, runs: list[str], separation: str | None, output_dir: str, seed: int, data_dir: str | None) -> None:
    """The command: prints the table, and writes it, the curves, and the error curves where an attack has looked for
    smallest distances. `separation` is what `lipcert separation` wrote."""
    if not runs:
        raise ValueError("`lipcert compare` needs runs: directories, globs or sweep directories")
    found = find_runs(runs)
    beside = stability_curve(read_separation(Path(separation))) if separation else None
    table = comparison(found)
    groups = group_by_seed(found)
    titles = group_names(groups)[0]
    names = {run.path: name for name, group in zip(titles, groups, strict=True) for run in group}
    figure = overlay_figure(found, [names[run.path] for run in found])  # one colour and one name for all seeds
    errors = errors_figure(groups, titles, beside)
    directory = Path(output_dir)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_atomic(directory / TABLE, table.markdown())
        write_atomic(directory / NUMBERS, table.csv())
        write_atomic(directory / CURVES, png(figure))
        if errors:
            write_atomic(directory / ERRORS, png(errors))
    except OSError as error:
        raise ValueError(f"`output_dir`: {directory} cannot be written ({error.strerror or error})") from None
    console = Console(width=max(120, Console().width))  # narrower, and rich would cut numbers off
    console.print(table.rich())
    console.print(f"written: {directory}", soft_wrap=True, highlight=False)
