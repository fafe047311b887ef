"""`lipcert compare`: one table and one plot over any number of runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from lipcert.analyses.separation.figures import stability_curve
from lipcert.analyses.separation.rows import read_separation
from lipcert.files import write_atomic
from lipcert.reporting.curves import overlay_figure
from lipcert.reporting.error_curves import errors_figure
from lipcert.reporting.groups import group_by_seed, group_names
from lipcert.reporting.plotting import Curve, drawn
from lipcert.reporting.table import Table, comparison
from lipcert.reporting.terminal import console, fitted
from lipcert.runs.find import Run, find_runs
from lipcert.runs.naming import free_directory

TABLE, NUMBERS, CURVES, ERRORS = "compare.md", "compare.csv", "curves", "errors"


def run(
    *,
    runs: list[str],
    tags: list[str],
    separation: str | None,
    output_dir: str | None,
    seed: int,
    data_dir: str | None,
) -> None:
    """The command: prints the table, and writes it, the curves, and the error curves where an attack has looked for
    smallest distances.

    tags        all that a run must have to be compared
    separation  what `lipcert separation` wrote
    """
    if not runs:
        raise ValueError("`lipcert compare` needs runs: directories, globs or sweep directories")
    found = find_runs(runs, tags=tags)
    table = comparison(found)
    pictures = _pictures(found, stability_curve(read_separation(Path(separation))) if separation else None)
    directory = Path(output_dir) if output_dir else free_directory(Path("outputs/compare"))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in {TABLE: table.markdown(), NUMBERS: table.csv(), **pictures}.items():
            write_atomic(directory / name, content)
    except OSError as error:
        raise ValueError(f"`output_dir`: {directory} cannot be written ({error.strerror or error})") from None
    _print(table)
    console().print(f"written: {directory}", soft_wrap=True, highlight=False)


def show_table(paths: Iterable[str | Path]) -> None:
    """Prints the comparison of the finished runs at `paths`, such as a sweep's directory; nothing where there is none.

    CertificateBroken where an attack broke one of their certificates.
    """
    try:
        found = find_runs(paths, tell=lambda line: None)
    except ValueError:
        return
    _print(comparison(found))


def _print(table: Table) -> None:
    terminal = console()
    for part in fitted(table, terminal.width):
        terminal.print(part)


def _pictures(runs: Sequence[Run], beside: Curve | None) -> dict[str, str | bytes]:
    """{file: content} of the figures: one colour and one name for all seeds."""
    groups = group_by_seed(runs)
    titles = group_names(groups)[0]
    names = {run.path: name for name, group in zip(titles, groups, strict=True) for run in group}
    pictures = drawn(overlay_figure(runs, [names[run.path] for run in runs]), CURVES)
    if errors := errors_figure(groups, titles, beside):
        pictures |= drawn(errors, ERRORS)
    return {**pictures}
