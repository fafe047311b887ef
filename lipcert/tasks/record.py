"""The record of a run: summary.json, curves.png, TensorBoard, the table on the terminal; all queries on its rows."""

from __future__ import annotations

import csv
import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from lipcert.contracts import AttackRow, CertificateBroken, CertificateRow
from lipcert.reporting.curves import run_figure, save_png
from lipcert.reporting.numbers import broken_certificates
from lipcert.reporting.record import layer_table, run_table, summary, write_json_atomic
from lipcert.reporting.rows import read_rows
from lipcert.reporting.stability import MAXIMA, StabilityRow
from lipcert.tasks import store

PACKAGES = ("lipcert", "torch", "torchvision", "lightning", "hydra-core", "omegaconf", "foolbox", "numpy")


def write(directory: Path, finished: bool | None = None) -> None:
    """Rewrites summary.json, curves.png and the run's TensorBoard entries from what lies in `directory`.

    finished: whether the run is; None: as its record said before, so that certifying a run that was stopped in training
    doesn't hide that it was. CertificateBroken where an attack's distance lies within a certified radius: such a record
    is not written.
    """
    if finished is None:
        finished = bool(store.read_summary(directory).get("finished"))
    config = store.read_config(directory, trust=True)
    facts = json.loads((directory / store.CERTIFICATE).read_text())
    certificates = read_rows(directory / store.CERTIFICATES, CertificateRow)
    attacks = read_rows(directory / store.ATTACKS, AttackRow) if (directory / store.ATTACKS).exists() else []
    stability = directory / store.STABILITY
    broken = broken_certificates(certificates, attacks, facts["norm"])
    if broken:
        raise CertificateBroken(
            f"image {broken[0].index} in {directory / store.ATTACKS} lies within its certified radius; "
            f"{len(broken)} such rows: the certificate is wrong, or the files are of different networks"
        )
    seconds = {"train": training_seconds(directory), **facts["seconds"], **attack_seconds(directory)}
    content = summary(
        config=config,
        certificate_rows=certificates,
        attack_rows=attacks,
        stability_rows=read_rows(stability, StabilityRow) if stability.exists() else [],
        norm=facts["norm"],
        eps={facts["norm"]: config["eps"]},
        report=facts,
        seconds=seconds,
        environment=environment(config, facts["device"]),
        finished=finished,
    )
    figure = run_figure(certificates, attacks, facts["norm"], directory.name)
    save_png(figure, directory / store.CURVES)
    write_tensorboard(directory, config, content, figure)
    write_json_atomic(directory / store.SUMMARY, content)  # last: a run that has it is finished


def show(directory: Path, layers: bool = False) -> None:
    """The final table on the terminal; with `layers`, the bound layer by layer before it."""
    console, content = Console(), store.read_summary(directory)
    if layers and (table := layer_table(content)):
        console.print(table)
    console.print(run_table(content))
    console.print(f"record: {directory}", soft_wrap=True, highlight=False)


def training_seconds(directory: Path) -> float:
    path = directory / store.METRICS
    if not path.exists():
        return 0.0
    with path.open(newline="") as file:
        return sum(float(row["seconds"]) for row in csv.DictReader(file))


def attack_seconds(directory: Path) -> dict[str, float]:
    path = directory / store.ATTACK_SECONDS
    return json.loads(path.read_text()) if path.exists() else {}


def environment(config: dict[str, Any], device: str) -> dict[str, Any]:
    import torch

    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or "cpu"
    return {
        "device": name,
        "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
        "git_commit": git_commit(),
        "seed": config["seed"],
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


def write_tensorboard(directory: Path, config: dict[str, Any], content: dict[str, Any], figure: Any) -> None:
    """The curves as an image, the accuracies as scalars, and the HParams entry by which runs are compared."""
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    numbers = {"clean_accuracy": content.get("clean_accuracy")}
    for key in ("certified_accuracy", "nominal_accuracy", "statistical_accuracy"):
        numbers |= {f"{key}/{eps}": value for eps, value in content.get(key, {}).items()}
    for key in ("median_radius", "nominal_median_radius", "statistical_median_radius", *MAXIMA):
        numbers[key] = content.get(key)
    numbers |= {f"median_distance/{attack}": value for attack, value in content["median_distance"].items()}
    for attack, values in content["robust_accuracy"].items():
        numbers |= {f"robust_accuracy/{attack}/{eps}": value for eps, value in values.items()}
    numbers = {key: value for key, value in numbers.items() if value is not None}
    with SummaryWriter(str(directory)) as writer:
        writer.add_figure("curves", figure, close=False)
        for event in hparams(hyperparameters(config), numbers):
            writer.file_writer.add_summary(event)
        for name, value in numbers.items():
            writer.add_scalar(name, value)


def hyperparameters(config: dict[str, Any]) -> dict[str, Any]:
    """What the HParams tab compares runs by. It sorts the names and shows the first five, so those are the five choices
    that make a run (capital letters come first); the values below them follow.
    """
    parts = ("dataset", "loss", "model", "optimizer")
    out = {part.capitalize(): config[part]["_target_"].rpartition(".")[2] for part in parts}
    out["Seed"] = config["seed"]
    for part in (*parts, "schedule"):
        out |= flat(config[part], f"{part}.")
    return out


def flat(node: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Dotted keys to plain values, without what only says where things lie or repeats the seed."""
    out: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, dict):
            out |= flat(value, f"{prefix}{key}.")
        elif key not in ("_target_", "_partial_", "data_dir", "path", "seed") and value is not None:
            out[f"{prefix}{key}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return out
