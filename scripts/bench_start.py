"""How long lipcert takes to start. Usage: bench_start.py [--runs N] [--whole]

Seconds of commands on digits, the least and the median of N runs each (5), in turn, after one that is not counted: wall
time and CPU time, of which the least holds on a shared machine too. With `--whole`, also of a training from the command
to its end. Then whose imports take the time until the first training step: seconds of each package by itself.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

LIPCERT = ["-m", "lipcert.cli.main"]
STEPPED = 77  # the exit status of a training that has come to its first step
FIRST_STEP = f"""
import os
from lipcert.cli import main

def imported(name, really=main.import_module):
    module = really(name)
    from torch.optim.optimizer import register_optimizer_step_pre_hook
    register_optimizer_step_pre_hook(lambda *_: os._exit({STEPPED}))
    return module

main.import_module = imported  # the command's module; torch is not imported before
main.main()
"""
IMPORT = re.compile(r"^import time: +(\d+) \| +\d+ \| +([\w.]+)$", re.MULTILINE)
LISTED = 15  # packages


class Seconds(NamedTuple):
    """What a process took."""

    wall: float
    cpu: float


def measure(arguments: list[str], status: int = 0) -> tuple[Seconds, str]:
    """The seconds of one process of Python, and its standard error; RuntimeError for another exit status."""
    with tempfile.TemporaryDirectory() as folder, Path(folder, "stderr").open("w+") as errors:
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, *arguments], cwd=folder, stdout=subprocess.DEVNULL, stderr=errors)
        _, ended, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(ended)
        errors.seek(0)
        text = errors.read()
    if process.returncode != status:
        raise RuntimeError(f"{' '.join(arguments)} ended with {process.returncode}: {text}")
    return Seconds(wall, used.ru_utime + used.ru_stime), text


def imports() -> str:
    """A line a package: the seconds that its modules take by themselves until the first training step."""
    spent: Counter[str] = Counter()
    for microseconds, module in IMPORT.findall(measure(["-X", "importtime", "-c", FIRST_STEP, "train"], STEPPED)[1]):
        parts = module.split(".")
        spent[".".join(parts[:2]) if parts[0] == "torch" else parts[0]] += int(microseconds)
    rows = [("all", spent.total()), *spent.most_common(LISTED)]
    return "\n".join(f"{seconds / 1e6:8.2f}  {name}" for name, seconds in rows)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--whole", action="store_true")
    asked = parser.parse_args()
    commands = {
        "lipcert --help": ([*LIPCERT, "--help"], 0),
        "lipcert train --cfg job": ([*LIPCERT, "train", "--cfg", "job"], 0),
        "lipcert train, to the first step": (["-c", FIRST_STEP, "train"], STEPPED),
    }
    if asked.whole:
        commands["lipcert train, to the end"] = ([*LIPCERT, "train"], 0)
    found: dict[str, list[Seconds]] = {name: [] for name in commands}
    for number in range(asked.runs + 1):
        for name, command in commands.items():
            seconds, _ = measure(*command)
            if number:
                found[name].append(seconds)
    print(f"{'':<34}{'wall: least':>12}{'median':>9}{'CPU: least':>12}{'median':>9}")
    for name, runs in found.items():
        wall, cpu = zip(*runs, strict=True)
        print(f"{name:<34}{min(wall):12.2f}{statistics.median(wall):9.2f}{min(cpu):12.2f}{statistics.median(cpu):9.2f}")
    print("\nimports until the first step, seconds of each package by itself (slower than in the runs above)")
    print(imports())


if __name__ == "__main__":
    main()
