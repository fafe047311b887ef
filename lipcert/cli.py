"""`lipcert TASK [overrides]`: finds the task, lets Hydra compose its configuration, and turns errors into one line.

Exit status: 0 done; 1 a defect of lipcert itself (with its traceback); 2 something the user can put right; 3 an attack
broke a certificate.
"""

from __future__ import annotations

import datetime
import os
import re
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

TASKS = {
    "train": "train, certify, attack and record: lipcert train model=l2nnn dataset=mnist",
    "certify": "prove a radius for every test image of a run: lipcert certify run=PATH",
    "attack": "attack the test images of a run: lipcert attack run=PATH attack=carlini_wagner_l2",
    "compare": "one table and one plot over runs: lipcert compare RUN RUN ...",
    "separation": "how far apart a data set's labels lie, their Lipschitz constant: lipcert separation dataset=mnist",
}


# Hydra's flags that make sense here, and what values they take (None: none; (): any).
FLAGS: dict[str, tuple[str, ...] | None] = {
    "--help": None,
    "-h": None,
    "--multirun": None,
    "-m": None,
    "--cfg": ("job", "hydra", "all"),
    "-c": ("job", "hydra", "all"),
    "--resolve": None,
    "--config-dir": (),
    "-cd": (),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}


def usage() -> str:
    lines = "\n".join(f"  {name:<12}{text}" for name, text in TASKS.items())
    return (
        f"usage: lipcert TASK [group=option] [key=value] [-m] [--cfg job] [--help]\n\n{lines}\n\n"
        "`lipcert TASK --help` lists the groups, their options and the overrides that matter.\n"
        "-m runs one job a combination of comma-separated values; --cfg job prints the configuration and stops."
    )


def main() -> None:
    """The console script."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return
    if arguments[0] == "--version":
        from lipcert import __version__

        print(f"lipcert {__version__}")
        return
    sys.path.append(os.getcwd())  # where `_target_: mypkg.Mine` may lie; last, so that it hides nothing
    sys.exit(run(arguments[0], arguments[1:]))


def run(task: str, arguments: list[str]) -> int:
    """Runs one task and gives the exit status."""
    from lipcert.tasks.choices import nearest

    if task not in TASKS:
        return fail(f"`{task}` is not a task{nearest(task, list(TASKS))} (tasks: {', '.join(TASKS)})")
    try:
        flags, overrides = sort_arguments(arguments)
        overrides = complete(task, flags, overrides)
    except ValueError as error:
        return fail(str(error))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us as exceptions, to be told in one line
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    sys.argv = [f"lipcert {task}", *flags, *overrides]
    statuses = [0]
    try:
        compose(task, statuses)
    except KeyboardInterrupt:
        run = value_of("resume", overrides) or value_of("output_dir", overrides) or ""
        begun = task == "train" and Path(run, "config.yaml").exists()
        return fail("interrupted" + (f"; `lipcert train resume={run}` goes on" if begun else ""), 130)
    except SystemExit as end:  # --help
        return int(end.code or 0)
    except Exception as error:
        return explain(error, task)
    finally:
        if is_sweep(flags):
            tidy(Path(value_of("output_dir", overrides) or "no directory"))
    return max(statuses)


def sort_arguments(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Hydra's own flags, and the rest: so that flags may stand anywhere (argparse wants them on one side).

    ValueError for a flag that is none, or without its value."""
    from lipcert.tasks.choices import among

    flags: list[str] = []
    rest: list[str] = []
    left = list(arguments)
    while left:
        argument = left.pop(0)
        flag, equals, value = argument.partition("=")
        choices = FLAGS.get(flag)
        if not argument.startswith("-"):
            rest.append(argument)
        elif flag not in FLAGS or (equals and choices is None):
            raise ValueError(f"`{argument}` is not a flag{among(flag, [f for f in FLAGS if f.startswith('--')])}")
        elif choices is None:
            flags.append(flag)
        elif not equals and not left:
            raise ValueError(f"`{flag}` needs a value")
        else:
            value = value if equals else left.pop(0)
            if choices and value not in choices:
                raise ValueError(f"`{flag} {value}`: there is no such choice{among(value, choices)}")
            flags += [flag, value]
    return flags, rest


def complete(task: str, flags: list[str], overrides: list[str]) -> list[str]:
    """The overrides with what `task` adds to them; ValueError for what can't be meant."""
    from lipcert.tasks.choices import among, options

    for group, _, value in (o.partition("=") for o in overrides):
        if value == "null" and options(group):
            raise ValueError(f"`{group}=null`: a group needs one of its options{among('none', options(group))}")
    words = [o for o in overrides if ("=" not in o and o[:1] != "~") or (task == "compare" and Path(o).exists())]
    if task == "compare":
        overrides = [o for o in overrides if o not in words]
        quoted = [word.replace("\\", "\\\\").replace("'", "\\'") for word in words]
        overrides += ["runs=[" + ",".join(f"'{word}'" for word in quoted) + "]"] if words else []
    elif words:
        meant = f"; did you mean run={words[0]}?" if task in ("certify", "attack") else ""
        raise ValueError(f"`{words[0]}` is not of the form key=value{meant}")
    if task == "train" and value_of("resume", overrides) not in (None, "null"):
        others = [o for o in overrides if o.partition("=")[0].lstrip("+") not in ("resume", "trust")]
        if others or is_sweep(flags):
            extra = (others or ["-m"])[0]
            raise ValueError(f"`resume` takes all else from the run's own config.yaml: leave out {extra}")
    if is_sweep(flags):
        # Hydra composes a sweep once without what is swept over, where a key of a part that it names is none yet; a job
        # that has no such key says so itself.
        overrides = [f"++{o}" if re.match(r"[\w]+\.[^@=]*=", o) else o for o in overrides]
    output_dir = value_of("output_dir", overrides)
    if output_dir is None and (task in ("train", "compare", "separation") or is_sweep(flags)):
        return [*overrides, f"output_dir={free_directory(Path('outputs') / task)}"]
    if output_dir and is_sweep(flags) and Path(output_dir).is_dir() and any(Path(output_dir).iterdir()):
        raise ValueError(f"`output_dir`: {output_dir} already exists; a sweep needs a directory of its own")
    return overrides


def is_sweep(flags: list[str]) -> bool:
    return "-m" in flags or "--multirun" in flags


def value_of(key: str, overrides: list[str]) -> str | None:
    """What the command line says of `key`; None if nothing."""
    found = [o.partition("=")[2] for o in overrides if o.partition("=")[0].lstrip("+") == key]
    return found[-1] if found else None


def compose(task: str, statuses: list[int]) -> None:
    """Runs the task's job, or a sweep of them, under Hydra.

    A job that fails in this process is told at once and adds its exit status; the sweep goes on. In another process (a
    launcher's) it raises, as the launcher expects."""
    import hydra

    from lipcert.tasks.choices import register_for_help

    process = os.getpid()

    def job(config) -> None:
        from lipcert.tasks.settings import check, check_call, plain

        number = job_number()
        try:
            module = import_module(f"lipcert.tasks.{task}")
            settings = plain(config)
            check_call(module.run, settings, called=f"`lipcert {task}`")
            check(settings)
            if number is not None and settings["output_dir"] is not None:
                settings["output_dir"] = str(Path(settings["output_dir"]) / number)
            module.run(**settings)
        except Exception as error:
            if os.getpid() != process:
                raise
            statuses.append(explain(error, task, f"job {number}: " if number is not None else ""))

    register_for_help()
    hydra.main(version_base="1.3", config_path="pkg://lipcert.conf", config_name=task)(job)()


def settings_of(task: str, overrides: list[str]) -> dict[str, Any]:
    """What a task would be called with, for the Python API: no sweeps, no flags. ValueError for what is refused."""
    from hydra import compose as compose_job
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    from lipcert.tasks.errors import told
    from lipcert.tasks.settings import check, check_call, plain

    overrides = complete(task, [], overrides)
    try:
        GlobalHydra.instance().clear()
        with initialize_config_module("lipcert.conf", version_base="1.3"):
            settings = plain(compose_job(task, overrides))
        check_call(import_module(f"lipcert.tasks.{task}").run, settings, called=f"`lipcert.{task}`")
        check(settings)
    except Exception as error:
        message = told(error, task)
        if message is None:
            raise
        raise ValueError(message[0]) from None
    return settings


def job_number() -> str | None:
    """The number of a sweep's job, which names its directory in the sweep's own; None for a job by itself."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra_config = HydraConfig.get()
    return str(hydra_config.job.num) if hydra_config.mode == RunMode.MULTIRUN else None


def tidy(sweep: Path) -> None:
    """Takes away the directories that Hydra made for jobs which then were refused."""
    for job in sweep.iterdir() if sweep.is_dir() else ():
        if job.is_dir() and not any(job.iterdir()):
            job.rmdir()
    if sweep.is_dir() and [path.name for path in sweep.iterdir()] == ["multirun.yaml"]:
        (sweep / "multirun.yaml").unlink()
        sweep.rmdir()


def free_directory(parent: Path) -> Path:
    """PARENT/<now>, to the microsecond: a shell starts many runs in one second."""
    return parent / datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")


def explain(error: Exception, task: str, where: str = "") -> int:
    """Prints what went wrong in one line if the user can mend it, else with its traceback; gives the exit status."""
    from lipcert.tasks.errors import told

    message_and_status = told(error, task)
    if message_and_status is None:
        traceback.print_exception(error)
        return 1
    message, status = message_and_status
    return fail(where + message, status)


def fail(message: str, status: int = 2) -> int:
    print(f"lipcert: {' '.join(message.split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
