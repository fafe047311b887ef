"""`lipcert verify`: whether an exported network is what its manifest says, and its radii can be proved anew."""

from __future__ import annotations

import time
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lipcert.export.verify import verify


def run(*, folder: str, data_dir: str | None, seed: int, output_dir: str | None) -> None:
    """The command: checks a folder that `lipcert export` wrote, and prints what was checked."""
    started = time.perf_counter()
    found = [*verify(Path(folder), data_dir), ("seconds", f"{time.perf_counter() - started:.1f}")]
    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    table.add_column()
    table.add_column()
    for what, result in found:
        table.add_row(escape(what), escape(result))
    console = Console(width=max(120, Console().width))
    console.print(table)
    whole = not any(what == "radii not checked" or result.startswith("not compared") for what, result in found)
    console.print(f"verified{'' if whole else ' in part'}: {folder}", soft_wrap=True, highlight=False, markup=False)
