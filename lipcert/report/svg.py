"""A figure of matplotlib as markup inside of a page: its colours are those of the page, its names are its own."""

from __future__ import annotations

import io
import math
import re
import warnings
from textwrap import fill
from typing import TYPE_CHECKING, Any

from lipcert.reporting.plotting import COLOURS, drawn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 4.7, 3.6  # inches of a plot: as wide as a phone, so that texts of 10 points are legible there
CHARACTERS = 50  # of a line below such a plot
GREYS = ("333333", "4d4d4d", "595959", "666666", "999999", "555555")
# What is drawn in a colour of a printed figure has on the page one that suits its theme; see style.css.
THEMED = {
    "#000000": "currentColor",
    "#ffffff": "none",
    "#e6e6e6": "var(--grid)",
    **{f"#{grey}": "var(--muted)" for grey in GREYS},
    **{colour: f"var(--c{number})" for number, colour in enumerate(COLOURS)},
}
FONT = "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


def narrow(figure: Figure) -> Figure:
    """The same figure with its plots below one another, its texts broken to their width, and its legend in a column."""
    lines = 0
    if len(figure.axes) == 1 and not figure.legends:
        return figure
    panels = list(figure.axes)
    grid = figure.add_gridspec(len(panels), 1)
    for place, axes in enumerate(panels):
        axes.set_subplotspec(grid[place, 0])
        axes.set_title(fill(axes.get_title(), CHARACTERS), fontsize="medium")
        axes.set_ylabel(fill(axes.get_ylabel(), 2 * CHARACTERS // 3))
    figure.suptitle("")
    for legend in list(figure.legends):
        handles: Any = list(legend.legend_handles)
        labels = [fill(" ".join(text.get_text().split()), CHARACTERS) for text in legend.get_texts()]
        lines += sum(label.count("\n") + 1 for label in labels)
        legend.remove()
        figure.legend(handles, labels, loc="outside lower center", fontsize=9, ncols=1, frameon=False)
    figure.set_size_inches(WIDTH, HEIGHT * len(panels) + 0.19 * math.ceil(lines))
    return figure


def inline(figure: Figure, key: str, files: bool = False) -> tuple[str, dict[str, bytes]]:
    """The figure as markup whose ids begin with `key`, and if `files` as the content of KEY.png and KEY.svg."""
    if files:
        found = drawn(figure, key)
        return themed(found[f"{key}.svg"].decode(), key), found
    return themed(_svg(figure, key), key), {}


def _svg(figure: Figure, key: str) -> str:
    from matplotlib import rc_context

    content = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": key}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # in names that are not Latin
        figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue().decode()


def themed(svg: str, key: str) -> str:
    """The element of an SVG file for a page: without a prolog and metadata, with names of its own, in its colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.S)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.S)
    head, rest = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    svg = f'<svg {box[0] if box else ""} aria-hidden="true" focusable="false">{rest}'
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{key}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{key}-\1)", svg)
    svg = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{key}-\1"', svg)
    svg = re.sub(r"#[0-9a-f]{6}\b", lambda found: THEMED.get(found[0], found[0]), svg)
    svg = re.sub(r"(font(?:-family)?: [^;\"]*?)'DejaVu Sans'[^;\"]*", rf"\1{FONT}", svg)
    svg = re.sub(r"(-?\d+\.\d\d)\d+", r"\1", svg)
    return re.sub(r"\s*\n\s*", "\n", svg)
