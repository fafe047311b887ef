"""The computation of `analysis=deciles`, from the rows of a run, and what it shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lipcert.analyses.deciles.groups import as_csv, extremes, flat, grouped
from lipcert.evaluation.load import LoadedRun
from lipcert.reporting.plotting import NORMS, distinct_colours, drawn, legend_below, new_panels, plain
from lipcert.reporting.rounding import decimal, percent
from lipcert.reporting.terminal import console
from lipcert.runs.directory import RunDirectory
from lipcert.runs.find import title_of
from lipcert.runs.results import read_results

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

ROWS, CONTENT, FIGURE = "deciles.csv", "deciles.json", "deciles"


def analyse(run: LoadedRun) -> None:
    """Writes deciles.csv, deciles.json and the picture of a certified run, whose lock is held; with all its attacks.

    ValueError where the gaps of logits are not known, or images are too few.
    """
    directory, results = run.directory, read_results(run.directory)
    kind = next(iter(results.kinds()))
    rows = results.best(kind)
    groups = grouped(rows, results.attacks, run.config["eps"])
    content = {"kind": kind, "norm": rows[0].norm, "images": len(rows), "groups": groups}
    content["extremes"] = extremes(rows, results.attacks)
    directory.replace(ROWS, as_csv(groups))
    figure = deciles_figure(content, title_of(directory.path, run.config))
    for name, picture in drawn(figure, FIGURE).items():
        directory.replace(name, picture)
    directory.write_json(CONTENT, content)


def deciles_figure(content: Mapping[str, Any], title: str) -> Figure:
    """Each number against the group's place, dashed where an attack left it, with the mean gaps below."""
    figure, (axes,) = new_panels(1)
    figure.set_size_inches(8.5, 4.5)
    groups = content["groups"]
    columns, places = [flat(group) for group in groups], range(1, len(groups) + 1)
    attacks = [name for attack, at in groups[0]["robust_accuracy"].items() for name in (f"{attack} {e}" for e in at)]
    for name, colour in zip(columns[0], distinct_colours(len(columns[0])), strict=True):
        values = [float("nan") if each[name] is None else each[name] for each in columns]
        label = name if name == "clean" or name in attacks else f"{name} {NORMS[content['norm']]}"
        axes.plot(places, values, "o--" if name in attacks else "o-", color=colour, markersize=4, label=label)
    axes.set_xticks(list(places), [f"{group['mean_gap']:.3g}" for group in groups])
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("ten groups of test images, by the gap of their two largest logits: its mean")
    axes.set_ylabel("fraction of the group")
    axes.set_title(plain(title), fontsize="medium")
    axes.grid(color="0.9", linewidth=0.8)
    legend_below(figure, axes.get_legend_handles_labels()[0])
    return figure


def deciles_table(content: Mapping[str, Any]) -> Table:
    """A row a group; what is proved is rounded down."""
    from rich import box
    from rich.table import Table

    groups = content["groups"]
    table = Table(box=box.SIMPLE_HEAD, caption="test images by the gap of their two largest logits, in %")
    for heading in ("group", "images", "mean gap", *flat(groups[0])):
        table.add_column(heading, justify="right")
    for number, group in enumerate(groups, start=1):
        cells = [percent(value, name.startswith("certified ")) for name, value in flat(group).items()]
        table.add_row(str(number), f"{group['images']:,}", decimal(group["mean_gap"]), *cells)
    return table


def show(directory: RunDirectory) -> None:
    """The groups on the terminal."""
    terminal = console()
    terminal.print(deciles_table(directory.read_json(CONTENT)))
    terminal.print(f"deciles: {directory / ROWS}", soft_wrap=True, highlight=False)
