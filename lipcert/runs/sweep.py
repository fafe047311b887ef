"""A sweep's directory: its jobs, known by their configurations, so that the same sweep goes on where it was stopped."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lipcert import files
from lipcert.runs.layout import HOLDER, LOCK, SWEEP
from lipcert.runs.lock import held

VERSION, MOST_BYTES = 1, 1 << 26
NAME = r"(?!\.)[\w.=+-]{1,120}"  # of a job's directory
TIDIED = {"multirun.yaml", SWEEP, LOCK, HOLDER}  # what a sweep without a job leaves in its directory
UNKNOWN_BY = (
    "output_dir",
    "resume",
    "trust",
    "extend",
    "name",
    "tags",
    "chosen",
    "logger",
    "objective",
)  # what a job is not known by: where its record goes, how it is started


class Sweep:
    """The jobs of one sweep of one command."""

    def __init__(self, directory: str | Path, command: str):
        self.directory, self.command = Path(directory), command

    def jobs(self) -> dict[str, str]:
        """{name of the job's directory: hash of its configuration}; {} where none has begun.

        ValueError where the directory is not one of such a sweep.
        """
        path = self.directory / SWEEP
        if not path.exists():
            return {}
        try:
            content = json.loads(files.read_regular(path, MOST_BYTES))
            jobs = content["jobs"]
            known = content["lipcert"] == VERSION and all(isinstance(x, str) for x in (*jobs, *jobs.values()))
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError, AttributeError):
            known = False
        if not known or any(not re.fullmatch(NAME, name) or name in TIDIED for name in jobs):
            raise ValueError(f"{path} is damaged: it does not say which jobs the sweep has")
        if content.get("command") != self.command:
            raise ValueError(f"`output_dir`: {self.directory} is a sweep of another command: give another directory")
        return jobs

    def check(self) -> None:
        """ValueError where the directory can't be this sweep's: where something else is in it."""
        if not self.directory.exists():
            return
        if not self.directory.is_dir():
            raise ValueError(f"`output_dir`: {self.directory} is a file")
        self.check_links()
        if {path.name for path in self.directory.iterdir()} - TIDIED and not self.jobs():
            raise ValueError(f"`output_dir`: {self.directory} already exists; a sweep needs a directory of its own")

    def check_links(self) -> None:
        """ValueError where something in the directory is a link, through which a job would write."""
        if links := [path for path in self.directory.iterdir() if path.is_symlink()]:
            raise ValueError(f"`output_dir`: {links[0]} is a link: nothing is written through one")

    def claim(self, settings: Mapping[str, Any], name: str) -> Path:
        """The directory of the job with these settings: the one that it had, else `name`, or with a number if taken."""
        known_by = hashlib.sha256(json.dumps(_known_by(settings), sort_keys=True).encode()).hexdigest()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.check_links()
        with held(self.directory, self.command):
            jobs = self.jobs()
            for old, sha256 in jobs.items():
                if sha256 == known_by:
                    return self.directory / old
            others = (f"{name}-{number}" for number in itertools.count(2))
            name = next(free for free in itertools.chain([name], others) if free not in jobs)
            content = {"lipcert": VERSION, "command": self.command, "jobs": {**jobs, name: known_by}}
            files.write_atomic(self.directory / SWEEP, files.as_json(content))
        return self.directory / name

    def tidy(self) -> None:
        """Deletes the empty directories of jobs that were refused, and the sweep's own if nothing is left in it."""
        for job in self.directory.iterdir() if self.directory.is_dir() else ():
            if job.is_dir() and not job.is_symlink() and not any(job.iterdir()):
                job.rmdir()
        if self.directory.is_dir() and {path.name for path in self.directory.iterdir()} <= TIDIED:
            for name in TIDIED:
                (self.directory / name).unlink(missing_ok=True)
            self.directory.rmdir()


def _known_by(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _known_by(value) for key, value in node.items() if key not in UNKNOWN_BY}
    return [_known_by(item) for item in node] if isinstance(node, list | tuple) else node
