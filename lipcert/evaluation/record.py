"""The record of a run: summary.json, its curves, TensorBoard, the table on the terminal; all queries on its rows."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lipcert.configuration import radii
from lipcert.contracts import Kind, Logger
from lipcert.reporting.curves import run_figure
from lipcert.reporting.plotting import drawn
from lipcert.reporting.run_table import layer_table, run_table
from lipcert.reporting.terminal import console
from lipcert.runs import tensorboard
from lipcert.runs.audits import audit_of
from lipcert.runs.config import read_config
from lipcert.runs.counterexamples import check_unbroken
from lipcert.runs.directory import RunDirectory
from lipcert.runs.find import is_finished, title_of
from lipcert.runs.layout import ATTACK_FACTS, CERTIFICATE_FACTS, CURVES, SUMMARY, TRAINING
from lipcert.runs.metrics import read_metrics
from lipcert.runs.results import Results, read_facts, read_results
from lipcert.runs.summary import summary

PACKAGES = ("lipcert", "torch", "torchvision", "lightning", "hydra-core", "omegaconf", "foolbox", "numpy")


def write_record(run: RunDirectory, finished: bool | None = None, logger: Logger | None = None) -> None:
    """Rewrites summary.json, the curves and the TensorBoard entries of a run whose lock is held, from its rows.

    finished  whether the run is; None: as its record said before, so that certifying a run that was stopped in training
              does not hide that it was
    logger    what shows the record too; None: TensorBoard, where the run asks for it

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
        training=training_facts(run),
        splits={split: found for split in ("val", "train") if (found := other_results(run, split))},
        audit=audit_of(run, rows) if strongest is Kind.PROOF else None,
        attack_radii={
            label: radii(facts["radii"], "attack.radii") for label, facts in attacks.items() if facts.get("radii")
        },
        finished=finished,
    )
    figure = run_figure(rows, results.attacks, rows[0].norm, title_of(run.path, config))
    pictures = drawn(figure, CURVES)
    for name, picture in pictures.items():
        run.replace(name, picture)
    if shown := logger or tensorboard.of_run(run.path, config):
        shown.record(content, pictures[f"{CURVES}.png"])
    run.write_json(SUMMARY, content)  # last: a run that has it is finished


def show(run: RunDirectory, layers: bool = False) -> None:
    """The final table on the terminal; with `layers`, the bound layer by layer before it."""
    terminal, content = console(), run.read_json(SUMMARY)
    if layers and (table := layer_table(content)):
        terminal.print(table)
    terminal.print(run_table(content))
    terminal.print(f"record: {run}", soft_wrap=True, highlight=False)


def training_seconds(directory: Path) -> float:
    """The wall time of all epochs that a run has logged."""
    return sum(float(row["seconds"]) for row in read_metrics(directory))


def other_results(run: RunDirectory, split: str) -> Results | None:
    """What is whole of images that are not the test images; None where nothing is."""
    found = read_results(run, split) if read_facts(run, CERTIFICATE_FACTS, split) else None
    return found if found and found.certificates else None


def training_facts(run: RunDirectory) -> dict[str, int]:
    """{parameters, epochs} of a run; {} of one that has no training.json, or a damaged one, which is said on stderr."""
    if not run.has(TRAINING):
        return {}
    try:
        facts = run.read_json(TRAINING)
    except ValueError as error:
        print(f"lipcert: {error}", file=sys.stderr)
        return {}
    return {key: value for key, value in facts.items() if type(value) is int}


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
