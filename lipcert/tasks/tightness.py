"""`lipcert certify analysis=tightness`: how much of an image's robustness its certificate proves (LMT, Figs. 3 to 5).

Image by image: (A) the certified radius; (B) and (C) what it would be by the steepest gradient near all images and near
this one, which are estimates and claim nothing; (D) the distance of an attack. A ≤ B and A < D hold for every image, or
the certificate is broken.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor

from lipcert.contracts import AttackRow, BoundCertificate, CertificateBroken, CertificateRow, Kind, Norm
from lipcert.datasets.split import Dataset
from lipcert.frozen import Network
from lipcert.reporting.curves import save_png
from lipcert.reporting.record import write_json_atomic
from lipcert.reporting.rows import read_rows, write_rows
from lipcert.reporting.tightness import TightnessRow, broken_chain, layer_table, ratio_table, tightness
from lipcert.reporting.tightness_figures import picture_figure, tightness_figure
from lipcert.tasks import record, store
from lipcert.tasks.arithmetic import exact_arithmetic
from lipcert.tasks.attack import attack_run
from lipcert.tasks.gradients import Steepness, steepness
from lipcert.tasks.kept_label import kept_labels
from lipcert.tasks.layer_bounds import layer_bounds
from lipcert.tasks.settings import build

ROWS, CONTENT, FIGURE, PICTURE = "tightness.csv", "tightness.json", "tightness.png", "tightness_picture.png"


def check(norm: Norm, certificate: dict[str, Any], attack: dict[str, Any] | None, draws: int, noise: float) -> None:
    """ValueError where there would be nothing to compare; asked before anything is written."""
    kind = build(certificate).kind
    if norm is not Norm.L2:
        raise ValueError(f"`analysis=tightness` compares l2 radii, this model is certified in {norm}: leave it out")
    if kind is not Kind.PROOF:
        raise ValueError(f"`analysis=tightness` compares proofs, `certificate` is {kind}: take pairwise or margin")
    if draws < 0:
        raise ValueError(f"`draws` must be at least 0, got {draws}")
    if not 0 < noise < float("inf"):
        raise ValueError(f"`noise` must be positive, got {noise}")
    built = build(attack) if attack and "_target_" in attack else None
    if built is None or "eps" in (attack or {}) or built.norm is not Norm.L2:
        raise ValueError(
            f"`attack` must look for the smallest l2 distance for `analysis=tightness`, got {built and built.label}: "
            "take deepfool_l2 or carlini_wagner_l2"
        )


def analyse(
    directory: Path,
    config: dict[str, Any],
    network: Network,
    dataset: Dataset,
    bound: BoundCertificate,
    *,
    attack: dict[str, Any],
    draws: int,
    noise: float,
    seed: int,
    device: str,
    batch_size: int,
) -> None:
    """Attacks the certified run of `directory` where that isn't done yet, and writes what the module's head says."""
    if bound.pairs is None:
        raise ValueError("`analysis=tightness` needs a certificate that rests on a Lipschitz bound: take margin")
    attack_run(directory, config, network, dataset, attack, device=device)
    attacker = build(attack)
    images = dataset.test.head(attacker.images)
    certified = read_rows(directory / store.CERTIFICATES, CertificateRow)[: len(images)]
    found = {
        row.index: row.distance
        for row in read_rows(directory / store.ATTACKS, AttackRow)
        if row.attack == attacker.label
    }
    with exact_arithmetic():
        layers = layer_bounds(network)
        started = time.perf_counter()
        steep = steepness(
            network.on(device),
            images,
            classes=len(bound.pairs),
            draws=draws,
            noise=noise,
            seed=seed,
            device=device,
            batch_size=batch_size,
        )
        seconds = time.perf_counter() - started
        hold(bound.pairs, steep)
        rows = join(certified, steep, found)
        kept = kept_labels(network, images.pixels(), certified, device)
    content = {
        "certificate": json.loads((directory / store.CERTIFICATE).read_text())["certificate"],
        "attack": attacker.label,
        "draws": draws,
        "noise": noise,
        "seed": seed,
        **tightness(rows, layers),
        "seconds": {"gradients": seconds},
    }
    write_rows(directory / ROWS, TightnessRow, rows)
    save_png(tightness_figure(rows, layers, attacker.label, directory.name), directory / FIGURE)
    (directory / PICTURE).unlink(missing_ok=True)
    if kept:
        save_png(picture_figure(kept), directory / PICTURE)
    write_json_atomic(directory / CONTENT, content)
    record.write(directory)


def hold(pairs: Tensor, steep: Steepness) -> None:
    """CertificateBroken where a gradient of some y_i − y_j is steeper than the certificate lets it be."""
    excess = steep.anywhere - pairs.cpu() * (1 + 1e-9)
    if (excess > 0).any():
        i, j = divmod(int(excess.argmax()), len(excess))
        raise CertificateBroken(
            f"logit {i} − logit {j} has a gradient of norm {float(steep.anywhere[i, j])!r}, above the "
            f"{float(pairs[i, j])!r} that the certificate rests on"
        )


def join(certified: list[CertificateRow], steep: Steepness, found: dict[int, float]) -> list[TightnessRow]:
    """One row an image; CertificateBroken where its radius is above its estimate, or its attack's distance within."""
    estimates = zip(steep.global_estimates().tolist(), steep.local_estimates().tolist(), strict=True)
    rows = [
        TightnessRow(r.index, r.label, r.prediction, r.margin, r.radius, by_all, by_own, found[r.index])
        for r, (by_all, by_own) in zip(certified, estimates, strict=True)
    ]
    for row, column in broken_chain(rows):
        raise CertificateBroken(
            f"image {row.index}: the certified radius {row.certified_radius!r} is above the {column.replace('_', ' ')} "
            f"{getattr(row, column)!r}"
        )
    return rows


def show(directory: Path) -> None:
    """The ratios and the layers' bounds on the terminal."""
    content = json.loads((directory / CONTENT).read_text())
    console = Console(width=max(120, Console().width))
    console.print(ratio_table(content), layer_table(content["layers"]))
    console.print(f"tightness: {directory / FIGURE}", soft_wrap=True, highlight=False)
