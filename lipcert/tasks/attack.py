"""`lipcert attack`: attacks the test images of a trained network, and holds every success against its certificate."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lipcert.contracts import AttackRow, CertificateRow, Kind, Norm
from lipcert.datasets.split import Dataset
from lipcert.frozen import Network
from lipcert.reporting.files import write_atomic
from lipcert.reporting.rows import append_rows, read_rows
from lipcert.tasks import record, store
from lipcert.tasks.arithmetic import exact_arithmetic
from lipcert.tasks.attacking import attack_images
from lipcert.tasks.certify import load_run
from lipcert.tasks.devices import check_device
from lipcert.tasks.settings import build


def run(
    *,
    run: str,
    attack: dict | None,
    eps: list[float] | None,
    data_dir: str | None,
    device: str,
    trust: bool,
    seed: int,
    output_dir: str | None,
) -> None:
    """The command: adds the rows of one attack to the run of directory `run`, and rewrites its record.

    Rows that are there already are kept: stopped and started again, it goes on.
    """
    check_device(device)
    if not attack or "_target_" not in attack:
        raise ValueError("`attack=none` attacks nothing; name an attack, for instance attack=carlini_wagner_l2")
    if eps is not None and "eps" not in attack:
        raise ValueError(
            f"`eps`: this attack looks for the smallest distance and takes no radius, got {eps}; leave it out"
        )
    directory = Path(run)
    config, network, dataset = load_run(directory, data_dir=data_dir, trust=trust)
    if not (directory / store.CERTIFICATES).exists():
        raise ValueError(f"`run`: {directory} is not certified yet; run `lipcert certify run={directory}` first")
    if attack.get("eps", 0) is None:  # conf/attack.yaml's `eps: null`: the run's own radii
        attack = attack | {"eps": eps or config["eps"]}
    attack_run(directory, config, network, dataset, attack, device=device)
    record.write(directory)
    record.show(directory)


def attack_run(
    directory: Path,
    config: dict[str, Any],
    network: Network,
    dataset: Dataset,
    settings: dict[str, Any],
    *,
    device: str = "cpu",
) -> None:
    """Appends a row an image and eps to attacks.csv; CertificateBroken if an attack gets within a certified radius."""
    attack = build(settings)
    exact = network.on(device)
    path = directory / store.ATTACKS
    before = read_rows(path, AttackRow) if path.exists() else []
    facts = json.loads((directory / store.CERTIFICATE).read_text())
    rows = read_rows(directory / store.CERTIFICATES, CertificateRow)
    started = time.perf_counter()
    try:
        with exact_arithmetic(), torch.enable_grad():
            attack_images(
                attack,
                exact.to(dtype=torch.float32, device=device),
                exact,
                pixels(dataset, attack.images).to(device),
                dataset.test.labels.to(device),
                append=lambda rows: append_rows(path, rows),
                done={(row.index, row.eps) for row in before if row.attack == attack.label},
                certified={row.index: row.radius for row in rows if row.kind == Kind.PROOF},
                certified_norm=Norm(facts["norm"]),
                counterexamples=directory / store.COUNTEREXAMPLES,
            )
    finally:
        add_seconds(directory, attack.label, time.perf_counter() - started)


def pixels(dataset: Dataset, images: int | None) -> Tensor:
    """The test images that are attacked, uint8 (N, C, H, W), as the model sees them."""
    return dataset.test.head(images).pixels()


def add_seconds(directory: Path, label: str, seconds: float) -> None:
    """Adds to what the attack took before it was stopped."""
    spent = record.attack_seconds(directory)
    spent[label] = spent.get(label, 0.0) + seconds
    write_atomic(directory / store.ATTACK_SECONDS, json.dumps(spent, indent=1))
