"""Runs the notebook of the documentation, and compares what it prints with what it shows.

Usage: run_notebook.py [--write]

`--write` puts what came out in place of what the notebook shows, pictures included. It needs pip install -e ".[docs]".
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

PAGE = Path(__file__).parents[1] / "docs" / "first_certificate.ipynb"
NUMBER = re.compile(r"\d[\d.]*")


def run(notebook: nbformat.NotebookNode) -> None:
    """Puts what the cells put out into them, run in an empty directory. CellExecutionError where one fails."""
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": folder}}, record_timing=False).execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            output.get("data", {}).pop("text/html", None)  # rich writes its tables a second time so
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("text") or any(output.data.values())]


def printed(notebook: nbformat.NotebookNode) -> list[str]:
    """The lines that the cells print, without their numbers."""
    texts = [output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ())]
    return [NUMBER.sub("#", line) for text in texts for line in text.splitlines()]


def main() -> None:
    notebook = nbformat.read(PAGE, as_version=4)
    shown = printed(notebook)
    run(notebook)
    if "--write" in sys.argv[1:]:
        nbformat.write(notebook, PAGE)
    elif printed(notebook) != shown:
        raise ValueError(f"the notebook shows {shown}, but printed was {printed(notebook)}")


if __name__ == "__main__":
    main()
