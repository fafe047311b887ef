"""Runs side by side: one row for the runs that differ only by seed, as markdown and CSV.

What is proved has columns of its own, named certified, and is rounded down; what is only estimated never enters them.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from lipcert.contracts import Kind
from lipcert.reporting.groups import group_by_seed, group_names
from lipcert.reporting.rounding import count, decimal, percent, seconds
from lipcert.runs import numbers
from lipcert.runs.find import Run
from lipcert.runs.numbers import MAXIMA, maxima

MISSING = "–"
# How a number is written, by its unit; a percent is a fraction of 1.
UNITS: dict[str, Callable[[float, bool], str]] = {
    "percent": percent,
    "number": decimal,
    "count": count,
    "seconds": seconds,
}


class Column(NamedTuple):
    """A number's name, one of `UNITS`, and whether it claims a guarantee (it is rounded down).

    `block` is the table on the terminal that it belongs to, `at` the radius that it has there for a heading.
    """

    title: str
    unit: str = "percent"
    claim: bool = False
    block: str = ""
    at: str = ""

    @property
    def heading(self) -> str:
        return f"{self.title} (%)" if self.unit == "percent" else self.title


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
        lines += [["---", *("---:" for _ in range(len(self.columns) + 1))], *self.shown()]
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

    def shown(self) -> Iterator[list[str]]:
        """Of each row its name, its number of seeds and its cells, as people read them."""
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
        note=f"With these differ also: {', '.join(left_out)}." if left_out else "",
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
    columns |= _columns_of_multiples(runs)
    for key, (_, name) in MAXIMA.items():
        if any(run.stability_rows for run in runs):
            column = Column(name, unit="number", block="steepest test images, l2 (no bounds)", at=name)
            columns[column] = partial(_maximum, key=key)
    for kind, norm in claims:
        column = Column(f"{numbers.WORDS[kind]} median {norm} radius", unit="number", claim=kind is Kind.PROOF)
        columns[column] = partial(_median, kind=kind, norm=norm)
    columns[Column("mean gap", unit="number")] = lambda run: numbers.mean_gap(run.certificate_rows)
    columns[Column("parameters", unit="count")] = partial(_recorded, keys=("parameters",))
    columns[Column("epochs", unit="count")] = partial(_recorded, keys=("epochs",))
    columns[Column("training seconds", unit="seconds")] = partial(_recorded, keys=("seconds", "train"))
    return columns


def _columns_of_claim(runs: Sequence[Run], kind: Kind, norm: str) -> Columns:
    """Accuracy at each radius that all runs with this kind of claim report; at each one's, if they share none."""
    word = numbers.WORDS[kind]
    reported = [set(run.summary[f"{word}_accuracy"]) for run in runs if (run.kind, run.norm) == (kind, norm)]
    about = f"{word} accuracy (%), {norm} radius"
    return {
        Column(f"{word} {norm} {eps!r}", "percent", kind is Kind.PROOF, about, repr(eps)): partial(
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
        column = Column(f"median distance {attack}", unit="number", block=about, at="median distance")
        columns[column] = partial(_median_distance, attack=attack)
    return columns


def _columns_of_multiples(runs: Sequence[Run]) -> Columns:
    """The fraction of images that each attack breaks at each multiple of their own certified radii."""
    tried = {
        (attack, k) for run in runs for attack, found in numbers.at_multiples(run.multiples).items() for k in found
    }
    return {
        Column(
            f"broken {attack} {factor:g} × certified",
            block=f"broken (%) by {attack} at a multiple of the certified radius",
            at=f"{factor:g} ×",
        ): partial(_broken, attack=attack, factor=factor)
        for attack, factor in sorted(tried)
    }


def _broken(run: Run, *, attack: str, factor: float) -> float | None:
    rows = numbers.at_multiples(run.multiples).get(attack, {}).get(factor, [])
    return statistics.fmean(numbers.beaten(row, 0.0) for row in rows) if rows else None


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


def _recorded(run: Run, *, keys: Sequence[str]) -> float | None:
    """A number of the summary that follows from no rows; None where an older run, or somebody else's, has none."""
    value: Any = run.summary
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    known = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e18
    return float(value) if known else None


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
        return MISSING
    shown = UNITS[column.unit]
    text = shown(cell.mean, column.claim)
    if cell.std is not None and (cell.std or column.unit != "count"):
        text += f" ± {shown(cell.std, False)}"
    return text if cell.n == n else f"{text} (of {cell.n})"
