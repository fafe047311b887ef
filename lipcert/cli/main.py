"""`lipcert COMMAND [overrides]`: finds the command, lets Hydra compose its configuration, turns errors into one line.

Exit status: 0 done; 1 a defect of lipcert itself (with its traceback); 2 something the user can put right; 3 an attack
broke a certificate.
"""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from lipcert.cli.arguments import complete, is_sweep, sort_arguments, value_of
from lipcert.cli.choices import register_for_help
from lipcert.cli.compose import ready, scan_plugins
from lipcert.cli.messages import message
from lipcert.configuration import nearest
from lipcert.runs.directory import is_run
from lipcert.runs.sweep import Sweep

COMMANDS = {
    "train": "train, certify, attack and record: lipcert train model=l2nnn dataset=mnist",
    "certify": "prove a radius for every test image of a run: lipcert certify run=PATH",
    "attack": "attack the test images of a run: lipcert attack run=PATH attack=carlini_wagner_l2",
    "compare": "one table and one plot over runs: lipcert compare RUN RUN ...",
    "separation": "how far apart a data set's labels lie, their Lipschitz constant: lipcert separation dataset=mnist",
    "reproduce": "a paper's table as published, and the command of each row: lipcert reproduce table=l2nnn/table5",
}
MOST_CHARACTERS = 1000  # of a message


def usage() -> str:
    """What `lipcert --help` prints."""
    lines = "\n".join(f"  {name:<12}{text}" for name, text in COMMANDS.items())
    return (
        f"usage: lipcert COMMAND [group=option] [key=value] [-m] [--cfg job] [--help]\n\n{lines}\n\n"
        "`lipcert COMMAND --help` lists the groups, their options and the overrides that matter.\n"
        "-m runs one job a combination of comma-separated values; --cfg job prints the configuration and stops."
    )


def main() -> None:
    """The console script."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return
    if arguments[0] == "--version":
        print(f"lipcert {version('lipcert')}")
        return
    sys.exit(run(arguments[0], arguments[1:]))


def run(command: str, arguments: list[str]) -> int:
    """Runs one command and returns the exit status."""
    if command not in COMMANDS:
        return fail(f"`{command}` is not a command{nearest(command, list(COMMANDS))} (commands: {', '.join(COMMANDS)})")
    try:
        flags, overrides = sort_arguments(arguments)
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
    except KeyboardInterrupt:
        stopped = value_of("resume", overrides) or value_of("output_dir", overrides) or ""
        begun = command == "train" and is_run(Path(stopped))
        again = "; the same command goes on" if sweep else f"; `lipcert train resume={stopped}` goes on"
        return fail("interrupted" + (again if begun or sweep else ""), 130)
    except SystemExit as end:  # --help
        return int(end.code or 0)
    except Exception as error:
        return explain(error, command)
    finally:
        if sweep:
            sweep.tidy()
    return max(statuses, default=0)


def run_jobs(command: str, statuses: list[int]) -> None:
    """Runs the command's job, or a sweep of them, under Hydra.

    A job that fails in this process is reported at once and adds its exit status; the sweep goes on. In another process
    (a launcher's) it raises, as the launcher expects.
    """
    import hydra

    process = os.getpid()

    def job(config) -> None:
        number = job_number()
        try:
            run_job(command, config, number)
            statuses.append(0)
        except Exception as error:
            if os.getpid() != process:
                raise
            statuses.append(explain(error, command, f"job {number}: " if number is not None else ""))

    scan_plugins()
    register_for_help()
    hydra.main(version_base="1.3", config_path="pkg://lipcert.conf", config_name=command)(job)()


def run_job(command: str, config, number: str | None) -> None:
    """Runs one job; one of a sweep goes on where it was, if it was begun before."""
    module = import_module(f"lipcert.commands.{command}")
    settings = ready(config, command, module.run)
    if number is not None and settings.get("output_dir") is not None:
        directory = Sweep(settings["output_dir"], command).claim(settings, number)
        if command == "train":
            module.begin_or_resume(directory, settings)
            return
        settings["output_dir"] = str(directory)
    module.run(**settings)


def job_number() -> str | None:
    """The number of a sweep's job; None for a job by itself."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra_config = HydraConfig.get()
    return str(hydra_config.job.num) if hydra_config.mode == RunMode.MULTIRUN else None


def explain(error: Exception, command: str, where: str = "") -> int:
    """Prints what went wrong in one line if the user can mend it, else with its traceback; returns the exit status."""
    shown = message(error, command)
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
