"""What has to be run for a table: a job for each row and seed, at a scale."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lipcert.configuration import nearest
from lipcert.reporting.published import Column, Row, Scale, Table, load
from lipcert.reproduction import smoke

FULL, LAPTOP, SMOKE = SCALES = ("full", "laptop", "smoke")


@dataclass(frozen=True)
class Job:
    """A row with a seed and, where the row tunes something, one of the combinations that it tries.

    table      its name
    row        of the table
    seed       None where the command takes none that counts
    tried      the overrides of the combination
    directory  of its run
    lines      the arguments of the commands that compute it, `lipcert` left out: the first one makes the run, the
               others add rows to it
    """

    table: str
    row: Row
    seed: int | None
    tried: tuple[str, ...]
    directory: Path
    lines: list[list[str]]

    @property
    def folder(self) -> Path:
        """Of the table and the scale."""
        return self.directory.parent.parent

    def shell(self) -> list[str]:
        """The commands as lines for a shell."""
        return [shlex.join(["lipcert", *line]) for line in self.lines]


def jobs(
    table: Table,
    scale: str,
    rows: Sequence[str] | None,
    seeds: int | None,
    output_dir: str | Path,
    data_dir: str | None,
) -> list[Job]:
    """The jobs of a table, in its order, after those of the rows of other tables that it reads.

    rows      names of those rows alone; None: all that are trained at that scale
    seeds     how many, from 0 on; None: those that the table says
    data_dir  where the data sets lie; None leaves that to the commands

    ValueError for an unknown row, and where the table has no such scale.
    """
    of = scale_of(table, scale)
    for name in rows or ():
        if name not in table.rows:
            raise ValueError(f"`rows`: {table.name} has no row {name}{nearest(name, list(table.rows))}")
    if seeds is not None and seeds < 1:
        raise ValueError(f"`seeds`: got {seeds}, must be at least 1")
    wanted = [name for name in (table.rows if rows is None else rows) if not of.rows or name in of.rows]
    beside = [name for row in wanted for name in _runs_in(table.rows[row]) if name.startswith(f"{table.name}/")]
    due = list(dict.fromkeys([*(name.rpartition("/")[2] for name in beside), *wanted]))
    found = []
    for other, names in parts(table, of, due).items():
        found += jobs(load(other), scale, names, seeds, output_dir, data_dir)
    for row in map(table.rows.__getitem__, due):
        if row.trained and not row.of and "of" not in of.rows.get(row.name, {}):
            for seed in seeds_of(row, of, seeds):
                for tried in row.candidates()[: 1 if scale == SMOKE else None]:
                    found.append(_job(table, row, of, scale, seed, tried, Path(output_dir), data_dir))
    return found


def parts(table: Table, scale: Scale, rows: Iterable[str]) -> dict[str, list[str]]:
    """{other table: its rows} that these rows, or columns of them, are of."""
    found: dict[str, list[str]] = {}
    for row in map(table.rows.__getitem__, rows):
        named = [name for column in table.columns.values() for name in sources(column, row, scale)]
        for other, _, of in (name.rpartition("/") for name in [*named, *_runs_in(row)]):
            if other != table.name and of not in found.setdefault(other, []):
                found[other].append(of)
    return {other: names for other, names in found.items() if names}


def _runs_in(row: Row) -> list[str]:
    """The rows whose runs its analyses name."""
    return [name for way in row.analyses for word in way for name in re.findall(r"\{([\w/]+)\}", word)]


def sources(column: Column, row: Row, scale: Scale) -> list[str]:
    """The rows of other tables, as TABLE/ROW, that a column of a row is of at that scale."""
    at_scale = scale.rows.get(row.name, {})
    if "of" in at_scale:
        named = [at_scale["of"]]
    else:
        named = [name.replace("{row}", row.name) for name in column.of] or ([row.of] if row.of else [])
    return [name for name in named if name.rpartition("/")[0] not in scale.without]


def scale_of(table: Table, scale: str) -> Scale:
    """What a scale changes in a table. ValueError where the table has no such scale."""
    if scale == FULL:
        return Scale()
    if scale == SMOKE:
        return Scale(seeds=[0])
    if scale == LAPTOP and table.laptop is not None:
        return table.laptop
    if scale in SCALES:
        raise ValueError(f"`scale`: nobody has said how {table.name} is trained on a laptop; scale=full is the paper's")
    raise ValueError(f"`scale` must be one of {', '.join(SCALES)}, got {scale!r}")


def seeds_of(row: Row, scale: Scale, seeds: int | None) -> Sequence[int | None]:
    """The seeds of a row's jobs; None where its command takes none that counts."""
    if row.command != "train":
        return [None]
    return range(seeds) if seeds is not None else scale.seeds or row.seeds or [0]


def _job(
    table: Table,
    row: Row,
    of: Scale,
    scale: str,
    seed: int | None,
    tried: list[str],
    output: Path,
    data_dir: str | None,
) -> Job:
    directory = output / table.name / scale / row.name / "_".join([*_seed(seed), *tried] or ["run"])
    place = [] if data_dir is None else [f"data_dir={data_dir}"]
    ours = of.rows.get(row.name, {})
    first = [row.command, *row.arguments(ours.get("recipe") or of.recipe)]
    first += [*of.overrides, *ours.get("overrides", []), *tried]
    if scale == SMOKE:
        first += smoke.overrides(row, output / SMOKE)
    first += [*_seed(seed), *place]
    lines = [[*first, f"output_dir={directory}"]]
    if row.command == "train":
        own = [("certify", way) for way in [*row.analyses, *([["split=val"]] if tried else [])]]
        for command, way in [*_ways(table, of), *own]:
            way = [_placed(word, output, scale, seed) for word in way]
            short = smoke.short(command, way) if scale == SMOKE else []
            lines.append([command, f"run={directory}", *way, *short, *place])
    return Job(table.name, row, seed, tuple(tried), directory, lines)


def _seed(seed: int | None) -> list[str]:
    return [] if seed is None else [f"seed={seed}"]


def _placed(word: str, output: Path, scale: str, seed: int | None) -> str:
    """A word of a command, with the directory of a run where it names a row."""

    def directory(row: re.Match[str]) -> str:
        table, _, name = row[1].rpartition("/")
        return f"{output}/{table}/{scale}/{name}/seed={seed}"

    return re.sub(r"\{([\w/]+)\}", directory, word)


def _ways(table: Table, scale: Scale) -> Iterator[tuple[str, list[str]]]:
    for command, own, other in (
        ("attack", table.attacks, scale.attacks),
        ("certify", table.analyses, scale.analyses),
    ):
        for way in own if other is None else other:
            yield command, way
