"""The computation of `analysis=tightness`."""

from __future__ import annotations

import time
from typing import Any, Literal, NamedTuple

from rich.console import Console
from torch import Tensor

from lipcert.analyses.tightness.equivalents import equivalents
from lipcert.analyses.tightness.figures import picture_figure, tightness_figure
from lipcert.analyses.tightness.gradients import Steepest, steepest
from lipcert.analyses.tightness.layer_bounds import layer_bounds
from lipcert.analyses.tightness.pictures import FACTS, kept_labels
from lipcert.analyses.tightness.pools import panel
from lipcert.analyses.tightness.rows import TightnessRow, broken_chain, tightness
from lipcert.analyses.tightness.tables import layer_table, pool_table, ratio_table
from lipcert.configuration import build
from lipcert.contracts import BoundCertificate, CertificateRow, Kind, Norm
from lipcert.errors import CertificateBroken
from lipcert.evaluation.attack import attack_run
from lipcert.evaluation.load import LoadedRun
from lipcert.evaluation.record import write_record
from lipcert.frozen.exact import exact_arithmetic
from lipcert.reporting.plotting import drawn
from lipcert.runs.directory import RunDirectory
from lipcert.runs.find import title_of
from lipcert.runs.results import read_results

ROWS, CONTENT = "tightness.csv", "tightness.json"
FIGURE, PICTURE = "tightness", "tightness_picture"  # .png and .svg


class Settings(NamedTuple):
    """What the analysis is asked for.

    attack      the node of an attack that looks for the smallest l2 distance
    draws       noisy points an image at which gradients are looked at
    noise       their l2 distance from the image
    seed        of their directions
    device      where gradients are computed
    batch_size  how many images at once, at most
    gradients   image: estimates are of each image; batch: also, as the authors' code has it, of batches of `batch_size`
    """

    attack: dict[str, Any] | None
    draws: int
    noise: float
    seed: int
    device: str
    batch_size: int
    gradients: Literal["image", "batch"] = "image"

    def check(self, norm: Norm, certificate: dict[str, Any]) -> None:
        """ValueError where there would be nothing to compare; asked before anything is written."""
        kind = build(certificate).kind
        if norm is not Norm.L2:
            raise ValueError(f"`analysis=tightness` compares l2 radii, this model is certified in {norm}: leave it out")
        if kind is not Kind.PROOF:
            raise ValueError(f"`analysis=tightness` compares proofs, `certificate` is {kind}: take pairwise or margin")
        if self.draws < 0:
            raise ValueError(f"`draws` must be at least 0, got {self.draws}")
        if not 0 < self.noise < float("inf"):
            raise ValueError(f"`noise` must be positive, got {self.noise}")
        built = build(self.attack) if self.attack and "_target_" in self.attack else None
        if built is None or "eps" in (self.attack or {}) or built.norm is not Norm.L2:
            raise ValueError(
                f"`attack` must look for the smallest l2 distance for `analysis=tightness`, got "
                f"{built and built.label}: take deepfool_l2 or carlini_wagner_l2"
            )


def analyse(run: LoadedRun, bound: BoundCertificate, settings: Settings) -> None:
    """Attacks a certified run where that is not done yet, and writes tightness.csv, .json and the pictures.

    run       whose lock is held
    bound     its certificate, which rests on a Lipschitz bound
    settings  checked

    CertificateBroken where an image's radius is above what its gradients or its attack leave.
    """
    if bound.pairs is None or settings.attack is None:
        raise ValueError("`analysis=tightness` needs a certificate that rests on a Lipschitz bound: take margin")
    attack_run(run, settings.attack, device=settings.device)
    attacker = build(settings.attack)
    images, directory, device = run.dataset.test.head(attacker.images), run.directory, settings.device
    results = read_results(directory)
    certificate = results.kinds()[Kind.PROOF][0]
    certified = results.best(Kind.PROOF)[: len(images)]
    found = {row.index: row.distance for row in results.attacks if row.attack == attacker.label}
    with exact_arithmetic():
        layers, pools = layer_bounds(run.network), panel(images.input_shape)
        started = time.perf_counter()
        steep = steepest(
            run.network.on(device),
            images,
            classes=len(bound.pairs),
            draws=settings.draws,
            noise=settings.noise,
            seed=settings.seed,
            device=device,
            batch_size=settings.batch_size,
            by_batch=settings.gradients == "batch",
        )
        seconds = time.perf_counter() - started
        check_gradients(bound.pairs, steep)
        rows = join(certified, steep, found)
        kept = kept_labels(run.network, images.pixels(), certified, device)
    content = {
        "certificate": results.facts[certificate]["certificate"],
        "attack": attacker.label,
        "draws": settings.draws,
        "noise": settings.noise,
        "seed": settings.seed,
        "gradients": settings.gradients,
        **({"batch_size": settings.batch_size} if settings.gradients == "batch" else {}),
        **(numbers := tightness(rows, layers)),
        "pools": pools,
        "equivalents": equivalents(
            numbers["medians"]["certified_radius"], [row.certified_radius for row in rows], images.input_shape
        ),
        "pictures": [{name: getattr(one, name) for name in FACTS} for one in kept],
        "seconds": {"gradients": seconds},
    }
    directory.write_rows(ROWS, TightnessRow, rows)
    title = title_of(directory.path, run.config)
    pictures = drawn(tightness_figure(rows, layers, attacker.label, title, pools), FIGURE)
    if kept:
        pictures |= drawn(picture_figure(kept), PICTURE)
    for name in (f"{PICTURE}.png", f"{PICTURE}.svg"):
        directory.forget(name)
    for name, picture in pictures.items():
        directory.replace(name, picture)
    directory.write_json(CONTENT, content)
    write_record(directory)


def check_gradients(pairs: Tensor, steep: Steepest) -> None:
    """CertificateBroken where a gradient of some y_i − y_j is steeper than the certificate lets it be."""
    excess = steep.anywhere - pairs.cpu() * (1 + 1e-9)
    if (excess > 0).any():
        i, j = divmod(int(excess.argmax()), len(excess))
        raise CertificateBroken(
            f"logit {i} − logit {j} has a gradient of norm {float(steep.anywhere[i, j])!r}, above the "
            f"{float(pairs[i, j])!r} that the certificate rests on"
        )


def join(certified: list[CertificateRow], steep: Steepest, found: dict[int, float]) -> list[TightnessRow]:
    """One row an image; CertificateBroken where its radius is above its estimate, or its attack's distance within."""
    by_batch = steep.batch_estimates()
    estimates = zip(
        steep.global_estimates().tolist(),
        steep.local_estimates().tolist(),
        [None] * len(certified) if by_batch is None else by_batch.tolist(),
        strict=True,
    )
    rows = [
        TightnessRow(r.split, r.index, r.label, r.prediction, r.margin, r.radius, by_all, by_own, found[r.index], batch)
        for r, (by_all, by_own, batch) in zip(certified, estimates, strict=True)
    ]
    for row, column in broken_chain(rows):
        raise CertificateBroken(
            f"image {row.index}: the certified radius {row.certified_radius!r} is above the {column.replace('_', ' ')} "
            f"{getattr(row, column)!r}"
        )
    return rows


def show(directory: RunDirectory) -> None:
    """The ratios and the layers' bounds on the terminal."""
    content = directory.read_json(CONTENT)
    console = Console(width=max(120, Console().width))
    console.print(ratio_table(content), layer_table(content["layers"]))
    if content["pools"]:
        console.print(pool_table(content["pools"]))
    console.print(f"tightness: {directory / FIGURE}", soft_wrap=True, highlight=False)
