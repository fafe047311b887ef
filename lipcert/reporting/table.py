"""Runs side by side: one row for the runs that differ only by seed, as markdown, CSV and for the terminal.

What is proved has columns of its own, named certified, and is rounded down; what is only estimated never enters them.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from lipcert.contracts import Kind
from lipcert.reporting.groups import group_by_seed, group_names
from lipcert.reporting.rounding import decimal, percent
from lipcert.runs import numbers
from lipcert.runs.find import Run
from lipcert.runs.numbers import MAXIMA, maxima

if TYPE_CHECKING:
    from rich.console import RenderableType


class Column(NamedTuple):
    """A number's name, whether it is a fraction (shown in percent), whether it claims a guarantee (rounded down).

    `block` is the table on the terminal that it belongs to, `at` the radius that it has there for a heading.
    """

    title: str
    percent: bool = True
    claim: bool = False
    block: str = ""
    at: str = ""

    @property
    def heading(self) -> str:
        return f"{self.title} (%)" if self.percent else self.title


class Cell(NamedTuple):
    """Mean and sample standard deviation over the n runs that have the number; no deviation of a single one."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class Table:
    """`cells[i][j]` of row `names[i]`, of `seeds[i]` runs, in `columns[j]`; None where none of them has the number."""

    columns: list[Column]
    names: list[str]
    seeds: list[int]
    cells: list[list[Cell | None]]
    note: str = ""

    def markdown(self) -> str:
        lines = [["", "seeds", *(column.heading for column in self.columns)]]
        lines += [["---", *("---:" for _ in range(len(self.columns) + 1))], *self._shown()]
        escaped = ([cell.replace("|", "\\|") for cell in line] for line in lines)
        text = "".join(f"| {' | '.join(line)} |\n" for line in escaped)
        return f"{text}\n{self.note}\n" if self.note else text

    def csv(self) -> str:
        """Full precision, fractions of 1."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["name", "n", *(f"{c.title} {what}" for c in self.columns for what in ("mean", "std"))])
        for name, n, cells in zip(self.names, self.seeds, self.cells, strict=True):
            pairs = ((cell.mean, cell.std) if cell else (None, None) for cell in cells)
            values = (value for pair in pairs for value in pair)
            writer.writerow([name, n, *("" if value is None else repr(value) for value in values)])
        return out.getvalue()

    def rich(self) -> RenderableType:
        """For the terminal: the numbers at several radii each in a table of their own, so that they fit its width."""
        from rich import box
        from rich.console import Group
        from rich.markup import escape
        from rich.table import Table as RichTable

        parts: list[RenderableType] = []
        for block in dict.fromkeys(column.block for column in self.columns):
            mine = [j for j, column in enumerate(self.columns) if column.block == block]
            table = RichTable(box=box.SIMPLE_HEAD)
            table.add_column(min_width=min(40, max(map(len, self.names))), overflow="fold")
            table.add_column("seeds", justify="right", no_wrap=True)
            for j in mine:
                table.add_column(escape(self.columns[j].at or self.columns[j].heading), justify="right")
            for name, seeds, *cells in self._shown():
                table.add_row(escape(name), seeds, *(escape(cells[j]) for j in mine))
            parts += [escape(block), table]
        return Group(*parts, escape(self.note))

    def _shown(self) -> Iterator[list[str]]:
        for name, n, cells in zip(self.names, self.seeds, self.cells, strict=True):
            yield [name, str(n), *(_shown(cell, column, n) for cell, column in zip(cells, self.columns, strict=True))]


def comparison(runs: Sequence[Run]) -> Table:
    """One row for the runs that differ only by seed. Certified accuracy is shown at the radii that all runs of a norm
    report (at each one's, if they have none in common), robust accuracy for every attack and radius, over the images it
    was run on."""
    groups = group_by_seed(runs)
    names, left_out = group_names(groups)
    columns = _columns(runs)
    return Table(
        columns=list(columns),
        names=names,
        seeds=list(map(len, groups)),
        cells=[[_cell([number(run) for run in group]) for number in columns.values()] for group in groups],
        note=f"These differ too: {', '.join(left_out)}." if left_out else "",
    )


Columns = dict[Column, Callable[[Run], float | None]]


def _columns(runs: Sequence[Run]) -> Columns:
    """Every column with the query that fills it, None for a run that the column is not about."""
    claims = list(dict.fromkeys((run.kind, run.norm) for run in runs))
    columns: Columns = {Column("clean"): lambda run: numbers.clean_accuracy(run.certificate_rows)}
    for kind, norm in claims:
        columns |= _columns_of_claim(runs, kind, norm)
    for attack in dict.fromkeys(attack for run in runs for attack, _ in numbers.attacks(run.attack_rows)):
        columns |= _columns_of_attack(runs, attack)
    for key, (_, name) in MAXIMA.items():
        if any(run.stability_rows for run in runs):
            column = Column(name, percent=False, block="steepest test images, l2 (no bounds)", at=name)
            columns[column] = partial(_maximum, key=key)
    for kind, norm in claims:
        column = Column(f"{numbers.WORDS[kind]} median {norm} radius", percent=False, claim=kind is Kind.PROOF)
        columns[column] = partial(_median, kind=kind, norm=norm)
    columns[Column("mean gap", percent=False)] = lambda run: numbers.mean_gap(run.certificate_rows)
    return columns


def _columns_of_claim(runs: Sequence[Run], kind: Kind, norm: str) -> Columns:
    """Accuracy at each radius that all runs with this kind of claim report; at each one's, if they share none."""
    word = numbers.WORDS[kind]
    reported = [set(run.summary[f"{word}_accuracy"]) for run in runs if (run.kind, run.norm) == (kind, norm)]
    about = f"{word} accuracy (%), {norm} radius"
    return {
        Column(f"{word} {norm} {eps!r}", True, kind is Kind.PROOF, about, repr(eps)): partial(
            _accuracy, kind=kind, norm=norm, eps=eps
        )
        for eps in sorted(map(float, set.intersection(*reported) or set.union(*reported)))
    }


def _columns_of_attack(runs: Sequence[Run], attack: str) -> Columns:
    """Accuracy under an attack at each radius, and the median distance where it looks for the smallest one."""
    counts = sorted({n for run in runs if (n := numbers.attacked_count(run.attack_rows, attack))})
    images = "–".join(f"{n:,}" for n in dict.fromkeys((counts[0], counts[-1])))
    about = f"robust accuracy (%) under {attack} on {images} images, eps"
    columns: Columns = {
        Column(f"robust {attack} {eps!r} on {images} images", block=about, at=repr(eps)): partial(
            _robust, attack=attack, eps=eps
        )
        for eps in sorted({eps for run in runs for eps in _attack_eps(run, attack)})
    }
    if any((attack, ()) in numbers.attacks(run.attack_rows) for run in runs):
        column = Column(f"median distance {attack}", percent=False, block=about, at="median distance")
        columns[column] = partial(_median_distance, attack=attack)
    return columns


def _accuracy(run: Run, *, kind: Kind, norm: str, eps: float) -> float | None:
    if (run.kind, run.norm) != (kind, norm):
        return None
    query = numbers.certified_accuracy if kind is Kind.PROOF else numbers.accuracy_within
    return query(run.certificate_rows, eps)


def _median(run: Run, *, kind: Kind, norm: str) -> float | None:
    return numbers.median_radius(run.certificate_rows) if (run.kind, run.norm) == (kind, norm) else None


def _robust(run: Run, *, attack: str, eps: float) -> float | None:
    tried = dict(numbers.attacks(run.attack_rows)).get(attack)
    known = tried is not None and (eps in tried or not tried)  # smallest distances answer for every eps
    return numbers.robust_accuracy(run.attack_rows, attack, eps) if known else None


def _median_distance(run: Run, *, attack: str) -> float | None:
    found = numbers.attacked_count(run.attack_rows, attack)
    return numbers.median_distance(run.attack_rows, attack) if found else None


def _maximum(run: Run, *, key: str) -> float | None:
    return maxima(run.stability_rows).get(key)


def _attack_eps(run: Run, attack: str) -> set[float]:
    """The radii tried, or for smallest distances those that the run reports."""
    tried = dict(numbers.attacks(run.attack_rows)).get(attack, ())
    return set(tried) or set(map(float, run.summary["robust_accuracy"].get(attack, ())))


def _cell(values: Iterable[float | None]) -> Cell | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Cell(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


def _shown(cell: Cell | None, column: Column, n: int) -> str:
    if cell is None:
        return "–"
    shown = percent if column.percent else decimal
    text = shown(cell.mean, column.claim)
    if cell.std is not None:
        text += f" ± {shown(cell.std)}"
    return text if cell.n == n else f"{text} (of {cell.n})"
