"""The page: one HTML file that needs no network, about one run or several."""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lipcert.report import meanings, sections
from lipcert.report.blocks import Code, Drawing, Gallery, Grid, Markup, Piece, Row, Section, Text
from lipcert.report.gallery import gallery
from lipcert.report.record import Record, reach, read_record, standing, together
from lipcert.report.svg import inline, narrow
from lipcert.reporting.groups import group_by_seed, group_names
from lipcert.reporting.plotting import NORMS
from lipcert.reporting.rounding import decimal, percent
from lipcert.reporting.table import MISSING, comparison
from lipcert.runs import numbers
from lipcert.runs.find import Run, title_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path(__file__).parent
MOST_BYTES = 4_500_000  # of the runs' sections; a page has less than 5 MB
IMAGES = 4


class Page(NamedTuple):
    """A finished page: its text, and its figures as files {name: content}."""

    html: str
    figures: dict[str, bytes]


class Tile(NamedTuple):
    """A number that stands above all: what it is called, its value, and what it means."""

    name: str
    value: str
    about: str


@dataclass
class _Studio:
    """Draws the figures of a page, whose names begin with `prefix`; if it `keeps` them, as files too."""

    keeps: bool
    files: dict[str, bytes] = field(default_factory=dict)
    prefix: str = ""

    def draw(self, key: str, figure: Figure, alt: str, caption: str) -> Drawing:
        """A figure as a block."""
        name = f"{self.prefix}{key}"
        svg, files = inline(narrow(figure), name, self.keeps)
        self.files |= files
        return Drawing(name, svg, alt, caption)


def render(runs: Sequence[Run], **settings: Any) -> str:
    """The text of a page; the arguments are those of `build`."""
    return build(runs, **settings).html


def build(
    runs: Sequence[Run],
    *,
    title: str | None = None,
    extra: Sequence[tuple[str, str]] = (),
    images: int = IMAGES,
    data_dir: str | None = None,
    trust: bool = False,
    figures: bool = False,
) -> Page:
    """One page about finished runs, as `runs.find.find_runs` gives them.

    title     of the page; None: the run's own, or how many runs there are
    extra     further sections as (heading, html), which come first; the caller answers for the html
    images    how many pictures of each sort a run has
    data_dir  where the data lies, if no longer where the runs found it
    trust     whether the runs' configurations may name code outside lipcert
    figures   whether the page's figures are returned as files too

    ValueError, in one line, where a run's file is damaged. CertificateBroken where a proof is broken by a picture.
    """
    if not runs:
        raise ValueError("a page needs runs")
    names = names_of(runs)
    records = [read_record(run, name) for run, name in zip(runs, names, strict=True)]
    studio = _Studio(figures)
    shown = [Section(f"extra-{i}", heading, [Markup(html)]) for i, (heading, html) in enumerate(extra, 1)]
    overview = _overview(records, studio)
    size = sum(map(_size, [*shown, *overview]))
    shown += overview if len(records) > 1 else []
    for number, record in enumerate(records, 1):
        prefix = f"run{number}-" if len(records) > 1 else ""
        level = 3 if prefix else 2
        before = dict(studio.files)
        studio.prefix = prefix
        pictures = gallery(record, prefix, images, data_dir, trust)
        found = sections.of_run(record, studio.draw, level, prefix, pictures)
        if size + sum(map(_size, found)) > MOST_BYTES:
            found, studio.files = [_left_out(record, prefix, level)], before
        elif figures:
            studio.files |= _pictures(pictures)
        size += sum(map(_size, found))
        if prefix:
            shown.append(Section(f"run{number}", record.name, [Text(str(record.run.path))], 2, found))
        else:
            shown += [found[0], *overview, *found[1:]]  # the accuracy is what a reader looks for
    shown.append(_glossary())
    one = title_of(runs[0].path, runs[0].config) if len(runs) == 1 else f"{len(runs)} runs"
    html = _filled(title or printable(one), records, shown)
    return Page(html, studio.files)


def names_of(runs: Sequence[Run]) -> list[str]:
    """A name for each run, all different: what tells them apart, and the seed where several differ in it alone."""
    groups = group_by_seed(runs)
    found: dict[Path, str] = {}
    for name, group in zip(group_names(groups)[0], groups, strict=True):
        for run in group:
            found[run.path] = f"{name} seed={run.config['seed']}" if len(group) > 1 else name
    return [found[run.path] for run in runs]


def printable(text: str) -> str:
    """A name that somebody gave, on one line."""
    return "".join(c if c.isprintable() else "?" for c in text)


def tiles(record: Record) -> list[Tile]:
    """The numbers of a run that stand above all."""
    rows, norm = record.rows, NORMS[record.norm]
    found = [Tile("clean accuracy", f"{percent(numbers.clean_accuracy(rows))} %", f"{len(rows):,} test images")]
    eps = record.middle
    if eps is None:
        return found
    about = "proved, a lower bound" if record.proved else "estimated or statistical: no proof"
    value = percent(numbers.accuracy_within(rows, eps), record.proved)
    found.append(Tile(f"{record.word} accuracy at {norm} {eps:g}", f"{value} %", about))
    if left := together({label: at for label, at in reach(record, record.norm).items() if at}):
        same = percent(numbers.accuracy_within([row for row in rows if row.index in left], eps), record.proved)
        about = f"an upper bound, of the {len(left):,} attacked images; of these {same} % are {record.word}"
        found.append(Tile(f"attacked accuracy at {norm} {eps:g}", f"{percent(standing(left, eps))} %", about))
    radius = decimal(numbers.median_radius(rows), record.proved)
    found.append(Tile(f"median {record.word} {norm} radius", radius, "of all test images, in pixels of [0, 1]"))
    return found


def _overview(records: Sequence[Record], studio: _Studio) -> list[Section]:
    """The table, and of several runs the figures that lie over one another."""
    runs = [record.run for record in records]
    table = comparison(runs)
    shown = [row[2:] for row in table.shown()]
    columns = [name if n == 1 else f"{name} ({n} seeds)" for name, n in zip(table.names, table.seeds, strict=True)]
    rows: list[Row] = []
    for group, heading in meanings.GROUPS.items():
        mine = [
            Row(column.heading, [values[j] for values in shown], meanings.of_column(column))
            for j, column in enumerate(table.columns)
            if meanings.group_of(column) == group and any(values[j] != MISSING for values in shown)
        ]
        rows += [Row(heading, group=True), *mine] if mine else []
    several = len(records) > 1
    how = "Hover over a number, or reach its name with the Tab key or a finger, to read what it means."
    blocks: list[Piece] = [Grid("What was found" + (", run by run" if several else ""), columns, rows), Text(how)]
    blocks += [Text(table.note)] if table.note else []
    for record in records if several else ():
        if not record.proved:
            blocks.append(Text(f"{record.name}: {meanings.KINDS[record.run.kind]}", "note"))
    return [Section("numbers", "Numbers", blocks), *(_beside(records, studio) if several else [])]


def _beside(records: Sequence[Record], studio: _Studio) -> list[Section]:
    from lipcert.reporting.curves import overlay_figure
    from lipcert.reporting.error_curves import errors_figure

    runs = [record.run for record in records]
    groups = group_by_seed(runs)
    titles = group_names(groups)[0]
    names = {run.path: name for name, group in zip(titles, groups, strict=True) for run in group}
    alt = f"Accuracy against the radius of {len(runs)} runs: {', '.join(dict.fromkeys(titles))}."
    caption = "Solid: proved, a lower bound. Dotted: estimated or statistical, no proof. Dashed: what an attack leaves."
    drawings: list[Piece] = [
        studio.draw("overlay", overlay_figure(runs, [names[run.path] for run in runs]), alt, caption)
    ]
    if figure := errors_figure(groups, titles):
        alt = f"Error curves of {len(titles)} defences, a plot an attack."
        caption = "The fraction of images with another label within eps, as far as an attack found one."
        drawings.append(studio.draw("errors-overlay", figure, alt, caption))
    return [Section("beside", "Side by side", drawings)]


def _left_out(record: Record, prefix: str, level: int) -> Section:
    said = f"Left out, for a page below 5 MB: `lipcert report {record.run.path}` makes one of this run."
    return Section(f"{prefix}left-out", "Figures", [Text(said, "note")], level)


def _glossary() -> Section:
    rows = [Row(word.capitalize(), [told]) for word, told in meanings.GLOSSARY.items()]
    return Section("glossary", "Glossary", [Grid("What the words mean", ["Meaning"], rows, corner="Word", words=True)])


def _pictures(blocks: Sequence[Piece]) -> dict[str, bytes]:
    cards = [card for block in blocks if isinstance(block, Gallery) for card in block.cards]
    return {f"{picture.key}.png": picture.png for card in cards for picture in card.pictures}


def _size(section: Section) -> int:
    """The bytes of what is large in a section, as it stands on a page."""
    size = sum(map(_size, section.sections))
    for block in section.blocks:
        if isinstance(block, Drawing):
            size += len(block.svg.encode())
        elif isinstance(block, Markup):
            size += len(block.html.encode())
        elif isinstance(block, Code):
            size += len(block.text.encode())
        elif isinstance(block, Grid):
            size += sum(200 + len(row.name) + len(row.meaning) + sum(map(len, row.values)) for row in block.rows)
        elif isinstance(block, Gallery):
            size += sum(len(picture.png) * 4 // 3 + 400 for card in block.cards for picture in card.pictures)
    return size


def _filled(title: str, records: Sequence[Record], shown: Sequence[Section]) -> str:
    first = records[0]
    data = ", ".join(dict.fromkeys(str(r.run.summary.get("dataset")).rpartition(".")[2] for r in records))
    model = ", ".join(dict.fromkeys(str(r.run.summary.get("model")).rpartition(".")[2] for r in records))
    versions = first.run.summary.get("versions")
    version = versions.get("lipcert") if isinstance(versions, dict) else None
    lead = f"Model: {model}. Data: {data}. What is proved, what is estimated and what attacks leave."
    foot = "Made by lipcert" + (f"; the record is of version {version}." if version else ".")
    return filled(title, lead, tiles(first) if len(records) == 1 else [], shown, foot)


def filled(
    title: str, lead: str, tiles: Sequence[Tile], shown: Sequence[Section], foot: str = "Made by lipcert."
) -> str:
    """The text of a page with these sections; all of it is plain text but for the blocks that say otherwise."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)
    environment.filters["data_uri"] = lambda png: f"data:image/png;base64,{base64.b64encode(png).decode()}"
    counter = itertools.count(1)
    text = environment.get_template("template.html.j2").render(
        title=title,
        lead=printable(lead),
        tiles=tiles,
        sections=shown,
        style=(HERE / "style.css").read_text(),
        foot=foot,
        next_id=lambda: f"meaning-{next(counter)}",
    )
    return re.sub(r"\n\s*\n+", "\n", text)
