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
from pathlib import Path

TASKS = {
    "train": "train, certify, attack and record: lipcert train model=l2nnn dataset=mnist",
    "certify": "prove a radius for every test image of a run: lipcert certify run=PATH",
    "attack": "attack the test images of a run: lipcert attack run=PATH attack=carlini_wagner_l2",
    "compare": "one table and one plot over runs: lipcert compare RUN RUN ...",
}


def usage() -> str:
    lines = "\n".join(f"  {name:<9}{text}" for name, text in TASKS.items())
    return (f"usage: lipcert TASK [group=option] [key=value] [-m] [--cfg job] [--help]\n\n{lines}\n\n"
            "`lipcert TASK --help` lists the groups, their options and the overrides that matter.\n"
            "-m runs one job a combination of comma-separated values; --cfg job prints the configuration and stops.")


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
    sys.exit(run(arguments[0], arguments[1:]))


def run(task: str, arguments: list[str]) -> int:
    """Runs one task and gives the exit status."""
    from lipcert.tasks.settings import nearest

    if task not in TASKS:
        return fail(f"`{task}` is not a task{nearest(task, list(TASKS))} (tasks: {', '.join(TASKS)})")
    flags, overrides = sort_arguments(arguments)
    if task == "compare":
        runs = [a for a in overrides if "=" not in a]
        overrides = [a for a in overrides if "=" in a]
        if runs:
            overrides.append("runs=[" + ",".join(f"'{r}'" for r in runs) + "]")
    if task in ("train", "compare") and not any(a.startswith("output_dir=") for a in overrides):
        overrides.append(f"output_dir={free_directory(Path('outputs') / task)}")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us as exceptions, to be told in one line
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    sys.argv = [f"lipcert {task}", *flags, *overrides]
    statuses = [0]
    try:
        compose(task, statuses)
    except KeyboardInterrupt:
        return fail("interrupted; `lipcert train resume=PATH` goes on", 130)
    except Exception as error:
        return explain(error, task)
    return max(statuses)


def sort_arguments(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Hydra's own flags, and the rest: so that flags may stand anywhere (argparse wants them on one side)."""
    valued = ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
              "--info", "-i")
    flags: list[str] = []
    rest: list[str] = []
    previous = ""
    for argument in arguments:
        (flags if argument.startswith("-") or previous in valued else rest).append(argument)
        previous = argument
    return flags, rest


def compose(task: str, statuses: list[int]) -> None:
    """Runs the task's job, or a sweep of them, under Hydra. A job that fails in this process is told at once and adds its
    exit status; the sweep goes on. In another process (a launcher's) it raises, as the launcher expects."""
    import hydra

    process = os.getpid()

    def job(config) -> None:
        from importlib import import_module

        from lipcert.tasks.settings import check, check_call, plain

        try:
            module = import_module(f"lipcert.tasks.{task}")
            settings = plain(config)
            check_call(module.run, settings)
            check(settings)
            settings["output_dir"] = job_directory(settings["output_dir"])
            module.run(**settings)
        except Exception as error:
            if os.getpid() != process:
                raise
            statuses.append(explain(error, task))

    hydra.main(version_base="1.3", config_path="pkg://lipcert.conf", config_name=task)(job)()


def job_directory(output_dir: str | None) -> str | None:
    """A sweep's jobs each have a directory in the sweep's own."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra_config = HydraConfig.get()
    if output_dir is None or hydra_config.mode != RunMode.MULTIRUN:
        return output_dir
    return str(Path(output_dir) / str(hydra_config.job.num))


def free_directory(parent: Path) -> Path:
    """PARENT/<now>, with a suffix if two runs start in one second."""
    name = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for suffix in range(1000):
        path = parent / (f"{name}-{suffix}" if suffix else name)
        if not path.exists():
            return path
    raise ValueError(f"`output_dir`: no free name below {parent}")


def explain(error: Exception, task: str) -> int:
    """Prints what went wrong in one line if the user can mend it, else with its traceback; gives the exit status."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from lipcert.contracts import CertificateBroken, RanksFailed

    cause = error
    while cause.__cause__ is not None and isinstance(cause, HydraException | OmegaConfBaseException):
        cause = cause.__cause__
    if isinstance(cause, CertificateBroken):
        return fail(str(cause), 3)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return fail(composition(error, task))
    if isinstance(cause, ValueError | RanksFailed):
        return fail(str(cause))
    traceback.print_exception(error)
    return 1


def composition(error: Exception, task: str) -> str:
    """Hydra's message about a configuration that doesn't compose, in one line with the way out."""
    from lipcert.tasks.settings import nearest

    text = str(error)
    if found := re.search(r"Could not find '([^']+)'", text):
        group, _, option = found.group(1).rpartition("/")
        choices = options(group)
        return f"`{group}={option}`: there is no such option{nearest(option, choices)} (choices: {', '.join(choices)})"
    if found := re.search(r"Could not override '([^']+)'", text):
        key = found.group(1)
        return f"`{key}` is not a key of `lipcert {task}`{nearest(key, keys(task))} (--cfg job prints them all)"
    return re.sub(r"\s*\n\s*", "; ", text.strip())


def options(group: str) -> list[str]:
    folder = Path(__import__("lipcert.conf").conf.__path__[0]) / group
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))


def keys(task: str) -> list[str]:
    """Every key and group of the task's default configuration, dotted."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    GlobalHydra.instance().clear()
    with initialize_config_module("lipcert.conf", version_base="1.3"):
        config = OmegaConf.to_container(hydra_compose(task), resolve=False)

    def walk(node, path):
        for key, value in node.items():
            yield path + key
            if isinstance(value, dict):
                yield from walk(value, f"{path}{key}.")

    return list(walk(config, ""))


def fail(message: str, status: int = 2) -> int:
    print(f"lipcert: {' '.join(message.split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
