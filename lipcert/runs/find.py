"""Finished runs, found in directories and read."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lipcert.contracts import AttackRow, CertificateRow, Kind, StabilityRow
from lipcert.runs.config import read_config
from lipcert.runs.counterexamples import check_unbroken
from lipcert.runs.directory import RunDirectory, is_run
from lipcert.runs.layout import SUMMARY
from lipcert.runs.numbers import WORDS, kind_of
from lipcert.runs.results import read_results

MOST_DIRECTORIES = 100_000  # that are looked into


@dataclass(frozen=True)
class Run:
    """The record of one finished run.

    certificate_rows  of each test image the row with the largest radius, of the strongest kind of claim
    attack_rows       of all attacks that are whole; [] where it was not attacked
    stability_rows    [] where nobody looked at its gradients
    """

    path: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    certificate_rows: list[CertificateRow]
    attack_rows: list[AttackRow]
    stability_rows: list[StabilityRow] = field(default_factory=list)

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
        if unfinished([run.path]):
            raise ValueError(_unfinished_message([run.path]))
        results, summary = read_results(run), run.read_json(SUMMARY)
        check_unbroken(run, results)
        kinds = results.kinds()
        if not kinds:
            raise ValueError(f"{path} has no whole certificate: `lipcert certify run={path}` computes one")
        kind = next(iter(kinds))
        rows = results.best(kind)
        if not _is_summary(summary, kind, rows[0].norm):
            raise ValueError(f"{run / SUMMARY} is not of these rows: `lipcert certify run={path}` writes it anew")
        return cls(run.path, config, summary, rows, results.attacks, results.stability)


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


def find_runs(paths: Iterable[str | Path], *, skip_unfinished: bool = False) -> list[Run]:
    """The runs at `paths`: run directories, globs, or sweep directories (runs one or two levels down); each run once.

    ValueError where a path leads to no run, and, unless they are to be skipped, naming all that are unfinished.
    """
    directories = run_directories(paths)
    missing = unfinished(directories)
    if missing and not (skip_unfinished and len(missing) < len(directories)):
        raise ValueError(_unfinished_message(missing))
    return [Run.load(path) for path in directories if path not in missing]


def run_directories(paths: Iterable[str | Path]) -> list[Path]:
    """What `find_runs` looks into, finished or not, in the order of `paths` and of the numbers in names below them."""
    found: dict[Path, Path] = {}
    for path in paths:
        is_glob = not exists(path) and glob.has_magic(str(path))
        places = sorted(map(Path, glob.glob(str(path), recursive=True)), key=_natural) if is_glob else [Path(path)]
        here = [run for place in places for run in _runs_below(place)]
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


def unfinished(directories: Iterable[Path]) -> list[Path]:
    """Those without a summary.json, or with one which says that something is still to come."""
    return [path for path in directories if not is_finished(RunDirectory(path))]


def is_finished(run: RunDirectory) -> bool:
    """Whether a run has its summary, which says that all that was asked for is in it."""
    if not run.has(SUMMARY):
        return False
    try:
        return bool(run.read_json(SUMMARY).get("finished"))
    except ValueError:  # a summary that is damaged is written anew
        return False


def _unfinished_message(paths: Sequence[Path]) -> str:
    return (
        f"no finished {SUMMARY} in {', '.join(map(str, paths))}: "
        f"`lipcert train resume={paths[0]}` goes on where it was interrupted"
    )


def _runs_below(path: Path, levels: int = 2) -> list[Path]:
    if not path.is_dir():
        return []
    if is_run(path):
        return [path]
    if levels == 0:
        return []
    below = [place for place in path.iterdir() if place.is_dir() and not place.name.startswith(".")]
    if len(below) > MOST_DIRECTORIES:
        raise ValueError(f"{path} holds more than {MOST_DIRECTORIES:,} directories")
    return [run for place in sorted(below, key=_natural) for run in _runs_below(place, levels - 1)]


def _natural(path: Path) -> list[tuple[bool, int, str]]:
    """Job 2 comes before job 10."""
    parts = re.findall(r"\d+|\D+", str(path))
    return [(part.isdecimal(), int(part[:18]) if part.isdecimal() else 0, part) for part in parts]
