"""`lipcert COMMAND [overrides]`: finds the command, lets Hydra compose its configuration, turns errors into one line.

Exit status: 0 done; 1 a defect of lipcert itself (with its traceback); 2 something the user can put right; 3 an attack
broke a certificate.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from lipcert.cli.arguments import complete, config_dir, is_sweep, sort_arguments, value_of
from lipcert.cli.completion import completion
from lipcert.cli.compose import ready
from lipcert.cli.help import help_text
from lipcert.cli.messages import message
from lipcert.cli.naming import chosen, job_name
from lipcert.cli.plugins import scan_plugins
from lipcert.configuration import nearest
from lipcert.imports import uncollected
from lipcert.runs.sweep import Sweep

COMMANDS = {
    "train": "train, certify, attack and record: lipcert train model=l2nnn dataset=mnist",
    "certify": "prove a radius for every test image of a run: lipcert certify run=PATH",
    "attack": "attack the test images of a run: lipcert attack run=PATH attack=carlini_wagner_l2",
    "audit": "try to break every proof of a run, and say what would have been noticed: lipcert audit run=PATH",
    "export": "a run's network with its proofs, as a folder for others: lipcert export run=PATH",
    "verify": "check such a folder, and prove its radii anew: lipcert verify PATH",
    "compare": "one table and one plot over runs: lipcert compare RUN RUN ...",
    "report": "one page to read in a browser, about one run or several: lipcert report RUN ...",
    "separation": "how far apart a data set's labels lie, their Lipschitz constant: lipcert separation dataset=mnist",
    "reproduce": "a paper's table, trained row by row, beside what was published: lipcert reproduce table=l2nnn/table5",
}
MOST_CHARACTERS = 1000  # of a message


def usage() -> str:
    """What `lipcert --help` prints."""
    lines = "\n".join(f"  {name:<12}{text}" for name, text in COMMANDS.items())
    return (
        f"usage: lipcert COMMAND [group=option] [key=value] [-m] [--cfg job] [--help]\n\n{lines}\n"
        f'  {"completion":<12}what the TAB key completes: eval "$(lipcert completion bash)", or zsh, or fish\n\n'
        "`lipcert COMMAND --help` lists what a command takes, `lipcert COMMAND --help GROUP` the options of a group.\n"
        "-m runs one job a combination of comma-separated values; --cfg job prints the configuration and stops."
    )


def main() -> None:
    """The console script."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & {*arguments} and hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # lipcert train --help model | head
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return
    if arguments[0] == "--version":
        print(f"lipcert {version('lipcert')}")
        return
    sys.exit(run(arguments[0], arguments[1:]))


def run(command: str, arguments: list[str]) -> int:
    """Runs one command and returns the exit status."""
    if command not in (*COMMANDS, "completion"):
        names = [*COMMANDS, "completion"]
        return fail(f"`{command}` is not a command{nearest(command, names)} (commands: {', '.join(names)})")
    try:
        if command == "completion":
            print(completion(arguments, COMMANDS))
            return 0
        flags, overrides = sort_arguments(arguments, command)
        own = config_dir(flags)
        if "--help" in flags:
            print(help_text(command, overrides, own))
            return 0
        overrides = complete(command, flags, overrides)
    except (ValueError, OSError) as error:
        return explain(error, command)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us as exceptions, to be shown in one line
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    sys.argv = [f"lipcert {command}", *flags, *overrides]
    sweep = Sweep(value_of("output_dir", overrides) or "", command) if is_sweep(flags) else None
    statuses: list[int] = []
    try:
        run_jobs(command, statuses)
        if sweep and not statuses and not sweep.jobs():
            return fail("this sweep has no job: does a `glob(...)` match nothing, or a list have no values?")
    except KeyboardInterrupt as stop:
        again = f"the same command with output_dir={sweep.directory} goes on" if sweep else str(stop)
        return fail(f"interrupted; {again}" if again else "interrupted", 130)
    except SystemExit as end:  # of a flag of Hydra's
        return int(end.code or 0)
    except Exception as error:
        if not getattr(error, "explained", False):
            statuses.append(explain(error, command, "", overrides, own))
    finally:
        if sweep:
            sweep.tidy()
            with contextlib.suppress(OSError):  # of what is not empty
                Path("outputs", command).rmdir()
                Path("outputs").rmdir()
    if sweep and command == "train":
        statuses.append(show_sweep(sweep))
    return max(statuses, default=0)


def show_sweep(sweep: Sweep) -> int:
    """The table of the finished runs of a sweep; returns the exit status."""
    try:
        import_module("lipcert.commands.compare").show_table([sweep.directory])
    except Exception as error:
        return explain(error, "compare")
    return 0


def run_jobs(command: str, statuses: list[int]) -> None:
    """Runs the command's job, or a sweep of them, under Hydra.

    A job that fails in this process is reported at once and adds its exit status; the sweep goes on. It raises in
    another process (a launcher's), and under a sweeper that waits for its objective, as both expect.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig

    process = os.getpid()

    def job(config) -> float | list[float] | None:
        at = place_in_sweep()
        try:
            found = run_job(command, config, at)
            statuses.append(0)
            return found
        except Exception as error:
            if os.getpid() != process:
                raise
            statuses.append(explain(error, command, f"job {at.number}: " if at else "", written_of(HydraConfig.get())))
            if at and at.searched:
                error.explained = True  # type: ignore[attr-defined]
                raise
            return None

    scan_plugins()
    hydra.main(version_base="1.3", config_path="pkg://lipcert.conf", config_name=command)(job)()


class InSweep(NamedTuple):
    """A sweep's job: its number, what tells it from the others, whether its sweeper waits for an objective."""

    number: int
    name: str
    searched: bool


def run_job(command: str, config: Any, at: InSweep | None) -> float | list[float] | None:
    """Runs one job; one of a sweep goes on where it was, if it was begun before. Returns the objective, if it is due.

    ValueError where a configuration sends Hydra's files elsewhere.
    """
    from hydra.core.hydra_config import HydraConfig

    hydra_config = HydraConfig.get()
    with uncollected():
        module = import_module(f"lipcert.commands.{command}")
    same = hydra_config.job.config.override_dirname.exclude_keys if at else ()
    written = chosen(written_of(hydra_config), same)
    settings = ready(config, command, module.run, hydra_config.runtime.choices, written)
    elsewhere = at and hydra_config.sweep.dir != settings.get("output_dir")
    if elsewhere or hydra_config.run.dir != "." or hydra_config.sweep.subdir != ".":
        raise ValueError("`hydra.run.dir` and `hydra.sweep` can't be configured: say output_dir=PATH")
    if at is None or settings.get("output_dir") is None:
        module.run(**settings)
        return None
    directory = Sweep(settings["output_dir"], command).claim(settings, at.name)
    if command != "train":
        module.run(**{**settings, "output_dir": str(directory)})
        return None
    return module.run_in_sweep(directory, settings, at.searched)


def place_in_sweep() -> InSweep | None:
    """Where the job that runs stands in its sweep; None for a job by itself."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra_config = HydraConfig.get()
    if hydra_config.mode != RunMode.MULTIRUN:
        return None
    name = job_name(written_of(hydra_config), hydra_config.job.config.override_dirname.exclude_keys)
    return InSweep(hydra_config.job.num, name, not hydra_config.sweeper._target_.endswith(".BasicSweeper"))


def written_of(hydra_config: Any) -> list[str]:
    """The overrides of the job that runs, as they were written."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(hydra_config.overrides.task, resolve=False)  # type: ignore[return-value]


def explain(
    error: Exception, command: str, where: str = "", written: Sequence[str] = (), own: str | None = None
) -> int:
    """Prints what went wrong in one line if the user can mend it, else with its traceback; returns the exit status.

    where    what the line begins with
    written  the overrides, and `own` the directory of options of the user's own
    """
    shown = message(error, command, written, own)
    if shown is None:
        traceback.print_exception(error)
        return 1
    return fail(where + shown[0], shown[1])


def fail(text: str, status: int = 2) -> int:
    """Prints a message in one line on stderr, and returns the exit status."""
    line = " ".join(text.split())
    if len(line) > MOST_CHARACTERS:  # of a value that it repeats: what is wrong stands before it, the way out behind
        line = f"{line[: MOST_CHARACTERS // 2]} ... {line[-MOST_CHARACTERS // 2 :]}"
    print(f"lipcert: {''.join(c if c.isprintable() else ' ' for c in line)}", file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
