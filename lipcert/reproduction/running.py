"""Runs the jobs of a table, one after the other, each command in a process of its own; goes on where it was stopped."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lipcert import files
from lipcert.reproduction.jobs import Job
from lipcert.runs.directory import RunDirectory, is_run
from lipcert.runs.find import is_finished
from lipcert.runs.lock import held

STATE = "reproduce.json"  # in the directory of a table and a scale
MOST_BYTES = 1 << 24


def run_jobs(jobs: Sequence[Job], folder: Path, tell: Callable[[str], None]) -> list[str]:
    """Runs what is not done yet. Returns a line for each job that failed; a job that fails stops no other.

    folder  of the table and the scale, in which the jobs' directories and the state are
    tell    is told what is done

    ValueError where a job's directory was made by other commands, or the state is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    failed = []
    with held(folder, "reproduce"), ended_by_signals():
        state = State(folder)
        for job in jobs:
            state.check(job)
        for number, job in enumerate(jobs, 1):
            for line in job.lines:
                if state.is_done(job, line):
                    continue
                tell(f"{number}/{len(jobs)}: lipcert {' '.join(continued(job, line))}")
                error = state.run(job, line, folder)
                if error:
                    failed.append(f"{_key(job)}: lipcert {line[0]}: {error}")
                    break
    return failed


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM ends this process as an exception does, so that the command that it runs is ended too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: Any) -> NoReturn:
        sys.exit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def continued(job: Job, line: list[str]) -> list[str]:
    """The arguments, or those that go on with a run that was stopped."""
    if line is job.lines[0] and line[0] == "train" and is_run(job.directory):
        return ["train", f"resume={job.directory}"]
    return line


class State:
    """What was done for the jobs of a table: {job: {command: status, seconds, error}}, in a file that grows safely."""

    def __init__(self, folder: Path):
        self.path = folder / STATE
        self.jobs: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            self.jobs = _read(self.path)

    def check(self, job: Job) -> None:
        """ValueError where the job's directory holds what another command made."""
        known = self.jobs.get(_key(job), {})
        first = _text(job.lines[0])
        if known and known.get("made_by", first) != first:
            raise ValueError(
                f"`output_dir`: {job.directory} was made by other settings: lipcert {known['made_by']}; give another "
                "directory, or delete that one"
            )

    def is_done(self, job: Job, line: list[str]) -> bool:
        done = self.jobs.get(_key(job), {}).get("commands", {}).get(_text(line), {}).get("status") == 0
        return done and (line[0] != "train" or (is_run(job.directory) and is_finished(RunDirectory(job.directory))))

    def run(self, job: Job, line: list[str], folder: Path) -> str | None:
        """Runs one command. Returns what it said where it failed."""
        key = _key(job)
        mine = self.jobs.setdefault(key, {"made_by": _text(job.lines[0]), "commands": {}})
        log = folder / "logs" / f"{key.replace('/', '-')}-{job.lines.index(line)}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        with log.open("ab") as output:
            status = spawn(continued(job, line), output)
        error = None if status == 0 else _last_line(log) or f"exit status {status}"
        seconds = time.monotonic() - started
        before = mine["commands"].get(_text(line), {}).get("seconds", 0.0)
        mine["commands"][_text(line)] = {"status": status, "seconds": before + seconds, "error": error}
        files.write_atomic(self.path, files.as_json({"jobs": self.jobs}))
        return error


def spawn(arguments: list[str], output: Any) -> int:
    """Runs `lipcert` with these arguments in another process; what stops this one stops that one too."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lipcert.cli.main", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
        raise


def _key(job: Job) -> str:
    return f"{job.directory.parent.name}/{job.directory.name}"


def _text(line: Sequence[str]) -> str:
    """What a command is known by: where the data lie says nothing of what it computes."""
    return " ".join(word for word in line if not word.startswith("data_dir="))


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    said = [line for line in lines if line.startswith("lipcert: ")] or [line for line in lines if line]
    return said[-1][:300] if said else ""


def _read(path: Path) -> dict[str, Any]:
    try:
        jobs = json.loads(files.read_regular(path, MOST_BYTES))["jobs"]
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
        jobs = None
    if not isinstance(jobs, dict) or not all(isinstance(job, dict) for job in jobs.values()):
        raise ValueError(f"{path} is damaged: it does not say what was done; delete it, and what is finished is found")
    return jobs
