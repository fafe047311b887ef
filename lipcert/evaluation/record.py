"""The record of a run: summary.json, curves.png, TensorBoard, the table on the terminal; all queries on its rows."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from lipcert.reporting.curves import run_figure
from lipcert.reporting.plotting import png
from lipcert.reporting.run_table import layer_table, run_table
from lipcert.runs import tensorboard
from lipcert.runs.config import read_config
from lipcert.runs.counterexamples import check_unbroken
from lipcert.runs.directory import RunDirectory
from lipcert.runs.find import is_finished
from lipcert.runs.layout import ATTACK_FACTS, CURVES, SUMMARY
from lipcert.runs.results import read_facts, read_results
from lipcert.runs.summary import summary

PACKAGES = ("lipcert", "torch", "torchvision", "lightning", "hydra-core", "omegaconf", "foolbox", "numpy")


def write_record(run: RunDirectory, finished: bool | None = None) -> None:
    """Rewrites summary.json, curves.png and the TensorBoard entries of a run whose lock is held, from its rows.

    finished  whether the run is; None: as its record said before, so that certifying a run that was stopped in training
              does not hide that it was

    What is not whole is left out, and named on stderr. CertificateBroken where an attack's distance lies within a
    certified radius: such a record is not written.
    """
    finished = is_finished(run) if finished is None else finished
    config, results = read_config(run.path, trust=True), read_results(run)
    for name in results.unfinished:
        print(f"lipcert: not whole yet, and left out: {name}; the same command goes on", file=sys.stderr)
    if not results.certificates:
        raise ValueError(f"{run} has no whole certificate: `lipcert certify run={run}` computes one")
    check_unbroken(run, results)
    strongest = next(iter(results.kinds()))
    rows = results.best(strongest)
    attacks = read_facts(run, ATTACK_FACTS)
    device = results.facts[results.kinds()[strongest][0]]["device"]
    content = summary(
        results,
        config=config,
        eps=config["eps"],
        seconds={"train": training_seconds(run.path), **{name: facts["seconds"] for name, facts in attacks.items()}},
        environment=environment(config["seed"], device),
        finished=finished,
    )
    curves = png(run_figure(rows, results.attacks, rows[0].norm, run.path.resolve().name))
    run.replace(CURVES, curves)
    tensorboard.write_record(run.path, config, content, curves)
    run.write_json(SUMMARY, content)  # last: a run that has it is finished


def show(run: RunDirectory, layers: bool = False) -> None:
    """The final table on the terminal; with `layers`, the bound layer by layer before it."""
    console, content = Console(), run.read_json(SUMMARY)
    if layers and (table := layer_table(content)):
        console.print(table)
    console.print(run_table(content))
    console.print(f"record: {run}", soft_wrap=True, highlight=False)


def training_seconds(directory: Path) -> float:
    """The wall time of all epochs that a run has logged."""
    return sum(float(row["seconds"]) for row in tensorboard.read_metrics(directory))


def environment(seed: int, device: str) -> dict[str, Any]:
    """What a run's numbers were computed with: device, versions of packages, commit of the source, seed."""
    import torch

    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or "cpu"
    return {
        "device": name,
        "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
        "git_commit": git_commit(),
        "seed": seed,
    }


def git_commit() -> str | None:
    """The commit of the source tree that this package runs from; None where it is installed without one."""
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--match="],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
        tracked = subprocess.run(["git", "ls-files", "--error-unmatch", __file__], cwd=here, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip() if tracked.returncode == 0 else None
