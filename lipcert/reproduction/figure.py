"""A table as a figure: for each column, ours and the published number of each row."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill
from typing import TYPE_CHECKING

from lipcert.reporting.plotting import COLOURS
from lipcert.reporting.published import Table
from lipcert.reproduction.cells import Cell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_COLUMNS = 4  # panels beside one another


def table_figure(table: Table, found: Mapping[str, Mapping[str, Cell]]) -> Figure:
    """A panel for each column that has numbers: circles are published, dots with standard deviations ours."""
    from matplotlib.figure import Figure

    columns = [name for name in table.columns if any(name in row for row in found.values())]
    rows = list(found)
    across = max(1, min(MOST_COLUMNS, len(columns)))
    down = max(1, -(-len(columns) // across))
    size = (2.5 + 2.6 * across, down * (1.3 + 0.26 * len(rows)))
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharey=True).flatten()
    for axes, name in zip(panels, columns, strict=False):
        cells = [(y, found[row][name]) for y, row in enumerate(rows) if name in found[row]]
        due = [(cell.published, y) for y, cell in cells if cell.published is not None]
        ours = [(cell.ours.number, y, cell.ours.spread or 0.0) for y, cell in cells if cell.ours]
        if due:
            axes.plot(*zip(*due, strict=True), "o", color=COLOURS[7], fillstyle="none", label="published")
        if ours:
            x, y, spread = zip(*ours, strict=True)
            axes.errorbar(x, y, xerr=spread, fmt="o", color=COLOURS[0], markersize=4, capsize=2, label="ours")
        axes.set_title(fill(table.columns[name].title, 28), fontsize=9)
        axes.grid(axis="x", alpha=0.3)
        axes.tick_params(labelsize=8)
    for axes in panels[len(columns) :]:
        axes.set_visible(False)
    panels[0].set_yticks(range(len(rows)), [fill(table.rows[row].title, 44) for row in rows], fontsize=8)
    panels[0].invert_yaxis()
    if columns:
        handles = {label: h for axes in panels for h, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure
