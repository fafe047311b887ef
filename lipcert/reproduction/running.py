"""Runs the jobs of a table, one after the other, each command in a process of its own; goes on where it was stopped."""

from __future__ import annotations

import contextlib
import json
import math
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

LOGS, STATE = "logs", "reproduce.json"  # in the directory of a table and a scale
MOST_BYTES = 1 << 24


Runner = Callable[[list[str], Path], int]  # runs `lipcert` with arguments, adds to a log, returns the exit status


def run_jobs(jobs: Sequence[Job], tell: Callable[[str], None], runner: Runner | None = None) -> list[str]:
    """Runs what is not done yet. Returns a line for each job that failed; a job that fails stops no other.

    tell    is told what is done
    runner  what runs a command; None: each has a process of its own

    ValueError where a job's directory was made by other commands, or the state of a table is damaged.
    """
    failed = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(ended_by_signals())
        states = {}
        for folder in dict.fromkeys(job.folder for job in jobs):
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(held(folder, "reproduce"))
            states[folder] = State(folder)
        for job in jobs:
            states[job.folder].check(job)
        for number, job in enumerate(jobs, 1):
            state = states[job.folder]
            for line in job.lines:
                if state.is_done(job, line):
                    continue
                tell(f"{number}/{len(jobs)}: lipcert {' '.join(continued(job, line))}")
                error = state.run(job, line, runner or spawn)
                if error:
                    failed.append(f"{_key(job)}: lipcert {line[0]}: {error}; logs are in {job.folder / LOGS}")
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
        if known and not job.directory.exists():
            del self.jobs[_key(job)]  # somebody deleted it, to have it made anew
        elif known and known.get("made_by", first) != first:
            raise ValueError(
                f"`output_dir`: {job.directory} was made by other settings: lipcert {known['made_by']}; give another "
                "directory, or delete that one"
            )

    def is_done(self, job: Job, line: list[str]) -> bool:
        done = self.jobs.get(_key(job), {}).get("commands", {}).get(_text(line), {}).get("status") == 0
        return done and (line[0] != "train" or (is_run(job.directory) and is_finished(RunDirectory(job.directory))))

    def seconds(self, job: Job) -> float:
        """What its commands took, by the clock."""
        commands = self.jobs.get(_key(job), {}).get("commands", {})
        return sum(commands.get(_text(line), {}).get("seconds", 0.0) for line in job.lines)

    def run(self, job: Job, line: list[str], runner: Runner) -> str | None:
        """Runs one command. Returns what it said where it failed."""
        key = _key(job)
        mine = self.jobs.setdefault(key, {"made_by": _text(job.lines[0]), "commands": {}})
        log = job.folder / LOGS / f"{key.replace('/', '-')}-{job.lines.index(line)}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        status = runner(continued(job, line), log)
        error = None if status == 0 else _last_line(log) or f"exit status {status}"
        seconds = time.monotonic() - started
        before = mine["commands"].get(_text(line), {}).get("seconds", 0.0)
        mine["commands"][_text(line)] = {"status": status, "seconds": before + seconds, "error": error}
        files.write_atomic(self.path, files.as_json({"jobs": self.jobs}))
        return error


def spawn(arguments: list[str], log: Path) -> int:
    """Runs `lipcert` with these arguments in another process; what stops this one stops that one too."""
    with log.open("ab") as output, _process("main", arguments, stdin=subprocess.DEVNULL, stdout=output) as process:
        return process.wait()


@contextlib.contextmanager
def one_process() -> Iterator[Runner]:
    """A runner that runs all commands in one other process: commands that take seconds need not start again."""
    with _process("batch", [], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def run(arguments: list[str], log: Path) -> int:
            assert process.stdin and process.stdout
            process.stdin.write(json.dumps([str(log), *arguments]) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            if not answer:
                raise ChildProcessError(f"the process of the commands ended with status {process.wait()}; see {log}")
            return int(answer)

        yield run


@contextlib.contextmanager
def _process(module: str, arguments: list[str], **options: Any) -> Iterator[subprocess.Popen]:
    with subprocess.Popen(
        [sys.executable, "-m", f"lipcert.cli.{module}", *arguments],
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        **options,
    ) as process:
        try:
            yield process
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
    if not isinstance(jobs, dict) or not all(map(_is_whole, jobs.values())):
        raise ValueError(f"{path} is damaged: it does not say what was done; delete it, and what is finished is found")
    return jobs


def _is_whole(job: Any) -> bool:
    """Whether it is what `State.run` keeps of a job."""
    commands = job.get("commands") if isinstance(job, dict) else None
    return (
        isinstance(commands, dict)
        and isinstance(job.get("made_by"), str)
        and all(
            isinstance(command, dict)
            and type(command.get("status")) is int
            and type(command.get("seconds")) in (int, float)
            and 0 <= command["seconds"] < math.inf
            for command in commands.values()
        )
    )
