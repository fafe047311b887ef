"""Runs as they lie in their directories: found, read, whole or not at all."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from lipcert.contracts import AttackRow, CertificateRow, Kind
from lipcert.reporting.numbers import WORDS, kind_of
from lipcert.reporting.rows import read_rows
from lipcert.reporting.stability import StabilityRow


@dataclass(frozen=True)
class Run:
    """The record of one run, read from its directory. No attacks.csv: it was not attacked; no stability.csv: its
    gradients were not looked at."""

    path: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    certificate_rows: list[CertificateRow]
    attack_rows: list[AttackRow]
    stability_rows: list[StabilityRow] = field(default_factory=list)

    @cached_property
    def kind(self) -> Kind:
        return kind_of(self.certificate_rows)

    @property
    def norm(self) -> str:
        return self.summary["norm"]

    @classmethod
    def load(cls, path: str | Path) -> Run:
        """ValueError, in one line with the way out, if the directory's record is missing, unreadable or unfinished."""
        path = Path(path)
        if unfinished([path]):
            raise ValueError(_unfinished_message([path]))
        for name in ("config.yaml", "certificates.csv"):
            if not (path / name).is_file():
                raise ValueError(f"{path} has no {name}: `lipcert certify run={path}` writes what a run certifies")
        try:
            config = yaml.safe_load((path / "config.yaml").read_text())
        except yaml.YAMLError as error:
            raise ValueError(f"{path / 'config.yaml'} is not YAML: {' '.join(str(error).split())}") from None
        if not isinstance(config, dict):
            raise ValueError(f"{path / 'config.yaml'} holds no configuration")
        rows, summary = read_rows(path / "certificates.csv", CertificateRow), _summary(path)
        try:
            due = ["norm", f"{WORDS[kind_of(rows)]}_accuracy", "robust_accuracy"]
        except ValueError as error:
            raise ValueError(f"{path / 'certificates.csv'}: {error}") from None
        if lacking := [key for key in due if key not in summary]:
            raise ValueError(f"{path / 'summary.json'} lacks {lacking[0]}: `lipcert certify run={path}` writes it anew")
        attacks, stability = path / "attacks.csv", path / "stability.csv"
        return cls(
            path,
            config,
            summary,
            rows,
            read_rows(attacks, AttackRow) if attacks.is_file() else [],
            read_rows(stability, StabilityRow) if stability.is_file() else [],
        )


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
        is_glob = not Path(path).exists() and glob.has_magic(str(path))
        places = sorted(map(Path, glob.glob(str(path), recursive=True)), key=_natural) if is_glob else [Path(path)]
        here = [run for place in places for run in _runs_below(place)]
        if not here:
            what = "matches no run" if is_glob else "holds no run" if Path(path).is_dir() else "is not a directory"
            raise ValueError(f"`{path}` {what}: name directories that `lipcert train` wrote (they hold a config.yaml)")
        for run in here:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def unfinished(directories: Iterable[Path]) -> list[Path]:
    """Those of them without a summary.json, or with one which says that something is still to come."""
    return [path for path in directories if not ((path / "summary.json").is_file() and _summary(path).get("finished"))]


def _summary(path: Path) -> dict[str, Any]:
    try:
        content = json.loads((path / "summary.json").read_text())
    except ValueError as error:
        raise ValueError(f"{path / 'summary.json'} is not JSON ({error}): `lipcert certify run={path}`") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path / 'summary.json'} holds no summary: `lipcert certify run={path}` writes it")
    return content


def _unfinished_message(paths: Sequence[Path]) -> str:
    return (
        f"no finished summary.json in {', '.join(map(str, paths))}: "
        f"`lipcert train resume={paths[0]}` goes on where it was interrupted"
    )


def _is_run(path: Path) -> bool:
    return (path / "config.yaml").is_file() or (path / "summary.json").is_file()


def _runs_below(path: Path, levels: int = 2) -> list[Path]:
    if _is_run(path) or not path.is_dir():
        return [path] if _is_run(path) else []
    if levels == 0:
        return []
    below = sorted((p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")), key=_natural)
    return [run for place in below for run in _runs_below(place, levels - 1)]


def _natural(path: Path) -> list[tuple[bool, int, str]]:
    """Job 2 comes before job 10."""
    parts = re.findall(r"\d+|\D+", str(path))
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]
