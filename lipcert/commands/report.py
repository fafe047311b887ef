"""`lipcert report`: one page about one run or several, which opens from the disk."""

from __future__ import annotations

from pathlib import Path

from lipcert.files import write_atomic
from lipcert.report import page
from lipcert.reporting.terminal import console
from lipcert.runs.find import find_runs
from lipcert.runs.naming import free_directory

NAME = "report.html"


def run(
    *,
    runs: list[str],
    tags: list[str],
    title: str | None,
    output: str | None,
    images: int,
    figures: bool,
    data_dir: str | None,
    trust: bool,
    seed: int,
    output_dir: str | None,
) -> None:
    """The command: writes the page, and on demand its figures beside it.

    runs     run directories, directories with runs at any depth, globs
    tags     all that a run must have
    title    of the page; None: what the run is called
    output   the file; None: report.html in the only run, or in `output_dir`
    images   how many pictures of each sort
    figures  whether each figure is also written as PNG and SVG, into a folder beside the page

    ValueError, in one line and before anything is written, for what does not fit and for damaged runs.
    """
    if not runs:
        raise ValueError("`lipcert report` needs runs: directories, globs or sweep directories")
    if images < 0:
        raise ValueError(f"`images`: got {images}, must be at least 0; images=0 makes a page without pictures")
    if output is not None and Path(output).suffix != ".html":
        raise ValueError(f"`output`: {output} must end in .html, as output=report.html does")
    found = find_runs(runs, tags=tags)
    made = page.build(found, title=title, images=images, data_dir=data_dir, trust=trust, figures=figures)
    if output is not None:
        target = Path(output)
    elif output_dir is not None:
        target = Path(output_dir) / NAME
    else:
        target = (found[0].path if len(found) == 1 else free_directory(Path("outputs/report"))) / NAME
    key = "output_dir" if output is None and output_dir is not None else "output"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = target.with_name(f"{target.stem}_figures")
        if figures:
            folder.mkdir(exist_ok=True)
            for name, content in made.figures.items():
                write_atomic(folder / name, content)
        write_atomic(target, made.html)
    except OSError as error:
        raise ValueError(f"`{key}`: {target} cannot be written ({error.strerror or error}); give another") from None
    console().print(f"written: {target}", soft_wrap=True, highlight=False, markup=False)
    if figures:
        console().print(f"figures: {folder}", soft_wrap=True, highlight=False, markup=False)
