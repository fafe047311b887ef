"""The command line as tests use it: in this process, for speed, or in another where one is killed."""

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from lipcert.cli import main
from lipcert.contracts import AttackRow, CertificateRow
from lipcert.runs.directory import RunDirectory
from lipcert.runs.layout import ATTACKS, CERTIFICATES

TINY = ("attack=none", "dataset.subset=100", "schedule.epochs=1")


class Told(NamedTuple):
    status: int
    out: str
    err: str


def lipcert(capsys, command: str, *arguments: object) -> Told:
    capsys.readouterr()
    status = main.run(command, [str(a) for a in arguments])
    return Told(status, *capsys.readouterr())


def refused(capsys, command: str, *arguments: object, leaves: tuple[Path, ...] = ()) -> str:
    """The one line that a refused command prints; asserts that it is one, on stderr, and that nothing was touched."""
    before = snapshot(Path(), *leaves)
    told = lipcert(capsys, command, *arguments)
    assert told.status == 2, told
    assert told.err.startswith("lipcert: ") and told.err.count("\n") == 1, told.err
    assert snapshot(Path(), *leaves) == before
    return told.err.removeprefix("lipcert: ").rstrip()


def snapshot(*folders: Path) -> dict[Path, tuple[int, int]]:
    """Every file and directory below `folders` but for locks: when a file was written and how large it is."""
    paths = [path for folder in folders for path in folder.rglob("*") if path.name != ".lock"]
    stats = {path: path.stat() for path in paths}
    return {path: (0, 0) if path.is_dir() else (stat.st_mtime_ns, stat.st_size) for path, stat in stats.items()}


def elsewhere(*arguments: object, **options) -> subprocess.CompletedProcess:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "lipcert.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def certified(run: Path) -> list[CertificateRow]:
    return RunDirectory(run).read_rows(CERTIFICATES, CertificateRow)


def attacked(run: Path) -> list[AttackRow]:
    return RunDirectory(run).read_rows(ATTACKS, AttackRow)
