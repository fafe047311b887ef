"""Finished runs, found in directories and read."""

from __future__ import annotations

import glob
import itertools
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lipcert.contracts import AttackRow, CertificateRow, Kind, StabilityRow
from lipcert.errors import one_line
from lipcert.runs.config import read_config
from lipcert.runs.counterexamples import check_unbroken
from lipcert.runs.directory import RunDirectory, is_run
from lipcert.runs.layout import MANIFEST, SUMMARY, SWEEP
from lipcert.runs.numbers import WORDS, kind_of
from lipcert.runs.results import read_results

MOST_DIRECTORIES = 100_000  # that are looked into
MOST_NAMED = 5  # of the runs that are left out


@dataclass(frozen=True)
class Run:
    """The record of one finished run.

    certificate_rows  of each test image the row with the largest radius, of the strongest kind of claim
    attack_rows       of all attacks that are whole; [] where it was not attacked
    stability_rows    [] where nobody looked at its gradients
    multiples         the rows of attacks at multiples of each image's own certified radius
    """

    path: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    certificate_rows: list[CertificateRow]
    attack_rows: list[AttackRow]
    stability_rows: list[StabilityRow] = field(default_factory=list)
    multiples: Sequence[AttackRow] = ()

    @cached_property
    def kind(self) -> Kind:
        """The kind of claim of its radii."""
        return kind_of(self.certificate_rows)

    @property
    def norm(self) -> str:
        """The norm of its radii."""
        return self.summary["norm"]

    @classmethod
    def load(cls, path: str | Path) -> Run:
        """ValueError, in one line with the way out, if the record is missing, damaged or unfinished."""
        run = RunDirectory(path)
        config = read_config(path, trust=True)  # it is compared with others, and nothing is built of it
        if not is_finished(run):
            raise ValueError(
                f"no finished {SUMMARY} in {run}: `lipcert train resume={run}` goes on where it was interrupted"
            )
        results, summary = read_results(run), run.read_json(SUMMARY)
        check_unbroken(run, results)
        kinds = results.kinds()
        if not kinds:
            raise ValueError(f"{path} has no whole certificate: `lipcert certify run={path}` computes one")
        kind = next(iter(kinds))
        rows = results.best(kind)
        if not _is_summary(summary, kind, rows[0].norm):
            raise ValueError(f"{run / SUMMARY} is not of these rows: `lipcert certify run={path}` writes it anew")
        return cls(run.path, config, summary, rows, results.attacks, results.stability, results.multiples)


def _is_summary(summary: dict[str, Any], kind: Kind, norm: str) -> bool:
    """Whether it has what tables read of it: the radii that were reported."""
    certified, robust = summary.get(f"{WORDS[kind]}_accuracy"), summary.get("robust_accuracy")
    if (summary.get("kind"), summary.get("norm")) != (kind, norm) or not isinstance(robust, dict):
        return False
    tables = [certified, *robust.values()]
    return all(isinstance(table, dict) and all(map(_is_radius, table)) for table in tables)


def _is_radius(text: str) -> bool:
    try:
        return float(text) >= 0
    except ValueError:
        return False


def title_of(path: str | Path, config: Mapping[str, Any]) -> str:
    """What a run is called in figures and in TensorBoard: its name, else its directory's.

    A sweep's jobs have one name; what tells them apart is the name of the directory, which is added.

    path    its directory
    config  its configuration
    """
    path = Path(path).resolve()
    name = config.get("name")
    if not name or not isinstance(name, str):
        return path.name
    return f"{name}, {path.name}" if (path.parent / SWEEP).is_file() else name


def find_runs(
    paths: Iterable[str | Path], *, tags: Collection[str] = (), tell: Callable[[str], None] | None = None
) -> list[Run]:
    """The finished runs at `paths`, each once.

    paths  run directories; directories with runs at any depth; globs
    tags   all that a run must have
    tell   takes a line about each run that is left out because it is unfinished or damaged; None: stderr

    Raises ValueError where a path leads to no run, or where no run is left, and CertificateBroken where an attack broke
    a certificate.
    """
    tell = tell or _tell
    found, left_out = [], []
    directories = run_directories(paths)
    for path in directories:
        try:
            if not tags or set(tags) <= set(read_config(path, trust=True)["tags"]):
                found.append(Run.load(path))
        except (ValueError, OSError) as error:
            left_out.append(one_line(error, 1000))
    if not found and left_out:
        raise ValueError(left_out[0] if len(left_out) == 1 else f"none of {len(left_out)} runs: {left_out[0]}")
    if not found:
        raise ValueError(f"`tags`: of {len(directories)} runs none has {' and '.join(tags)} among its tags")
    for line in left_out[:MOST_NAMED]:
        tell(f"left out: {line}")
    if len(left_out) > MOST_NAMED:
        tell(f"left out: {len(left_out) - MOST_NAMED} further runs that are unfinished or damaged")
    return found


def _tell(line: str) -> None:
    print(f"lipcert: {line}", file=sys.stderr)


def run_directories(paths: Iterable[str | Path]) -> list[Path]:
    """What `find_runs` looks into, finished or not, in the order of `paths` and of the numbers in names below them."""
    found: dict[Path, Path] = {}
    for path in paths:
        is_glob = not exists(path) and glob.has_magic(str(path))
        here = [run for place in (_matches(str(path)) if is_glob else [Path(path)]) for run in _runs_below(place)]
        if not here:
            what = "matches no run" if is_glob else "is not a directory" if not exists(path) else "holds no run"
            raise ValueError(f"`{path}` {what}: name directories that `lipcert train` wrote (they hold a config.yaml)")
        for run in here:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def exists(path: str | Path) -> bool:
    """Whether there is something at a path that a user gave; False for what can't be a path, such as a long text."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def is_finished(run: RunDirectory) -> bool:
    """Whether a run has its summary, which says that all that was asked for is in it."""
    if not run.has(SUMMARY):
        return False
    try:
        return bool(run.read_json(SUMMARY).get("finished"))
    except ValueError:  # a summary that is damaged is written anew
        return False


def _matches(pattern: str) -> list[Path]:
    """What a glob matches. A ** follows links, and need not come to an end by itself."""
    found = list(itertools.islice(glob.iglob(pattern, recursive=True), MOST_DIRECTORIES + 1))
    if len(found) > MOST_DIRECTORIES:
        raise ValueError(f"`{pattern}` matches more than {MOST_DIRECTORIES:,} files and directories")
    return sorted(map(Path, found), key=_natural)


def _runs_below(path: Path) -> list[Path]:
    """The runs in a directory, at any depth: through no link, in no hidden directory, and in none of a run's own."""
    found, waiting, count = [], [path], 0
    while waiting:
        place = waiting.pop()
        try:
            if is_run(place):
                found.append(place)
                if (place / MANIFEST).exists():  # else it may be a config.yaml of something else
                    continue
            with os.scandir(place) as entries:
                names = [each.name for each in entries if each.name[0] != "." and each.is_dir(follow_symlinks=False)]
        except (OSError, ValueError):  # it is no directory, or may not be read
            continue
        count += len(names)
        if count > MOST_DIRECTORIES:
            raise ValueError(f"{path} holds more than {MOST_DIRECTORIES:,} directories")
        waiting += sorted((place / name for name in names), key=_natural, reverse=True)
    return found


def _natural(path: Path) -> list[tuple[bool, int, str]]:
    """Job 2 comes before job 10."""
    parts = re.findall(r"\d+|\D+", str(path))
    return [(part.isdecimal(), int(part[:18]) if part.isdecimal() else 0, part) for part in parts]
