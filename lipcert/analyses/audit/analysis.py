"""The audit of a run's proofs: rows that grow block by block, and what they come to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lipcert.analyses.audit import counterexample
from lipcert.analyses.audit.block import Block, Claim, blocks
from lipcert.analyses.audit.figures import audit_figure
from lipcert.analyses.audit.judging import Nearest
from lipcert.analyses.audit.outward import outward
from lipcert.analyses.audit.rows import AuditRow, broken, check_facts, numbers, one_of, total, within
from lipcert.analyses.audit.settings import Settings
from lipcert.attacks.judge import distance, judge
from lipcert.contracts import CertificateRow, Kind, Norm
from lipcert.errors import CertificateBroken
from lipcert.evaluation.load import LoadedRun
from lipcert.evaluation.record import write_record
from lipcert.reporting.plotting import drawn
from lipcert.runs.audits import fingerprint, provable
from lipcert.runs.directory import RunDirectory
from lipcert.runs.find import title_of
from lipcert.runs.layout import AUDIT, AUDIT_FACTS, COUNTEREXAMPLES
from lipcert.runs.results import drop_rows, network_hash, read_results

SPLIT, FIGURE = "test", "audit"


def audit(run: LoadedRun, settings: Settings, again: bool) -> None:
    """Audits the proofs of a run whose lock is held; it goes on where it was stopped.

    settings  checked
    again     whether what an earlier audit found is thrown away

    CertificateBroken where an image within a proved radius has another label: it is saved, and its row is kept.
    """
    directory, network = run.directory, run.network
    every = proved(directory)
    proofs = every[: settings.images]
    check_labels(run, proofs)
    boxed = {row.index: within_box(row, network.shape) for row in proofs}
    facts = begin(directory, settings, again, [within_box(row, network.shape) for row in every])
    rows = {row.index: row for row in directory.read_rows(AUDIT, AuditRow)}
    for row in filter(broken, rows.values()):
        raise CertificateBroken(
            f"image {row.index} in {directory / AUDIT}: {row.attack} found another label within its radius, see "
            f"{directory / COUNTEREXAMPLES}; again=true audits anew"
        )
    norm = Norm(proofs[0].norm)
    claims = [Claim(row.index, row.radius, row.radius_float32) for row in boxed.values()]
    found = blocks(network, norm, run.dataset.test, claims, settings, lambda claim: claim.index in rows)
    for block in found:
        facts["blocks"][str(block.start)] = block.facts
        directory.write_json(AUDIT_FACTS, facts)
        new = [row_of(block, place, boxed[block.claims[place].index]) for place in block.due]
        saved = save_broken(directory, block, new)  # first, so that no row is without its counter-example
        drop_rows(directory, AUDIT, AuditRow, one_of({row.index for row in new}))
        directory.append_rows(AUDIT, new)
        hold(saved)
        rows |= {row.index: row for row in new}
    facts["radii"] = fingerprint(proofs)
    finish(run, facts, [rows[claim.index] for claim in claims])


def proved(directory: RunDirectory) -> list[CertificateRow]:
    """The rows of images with a proved radius, of several proofs the largest one.

    ValueError where there is none.
    """
    results = read_results(directory)
    if Kind.PROOF not in results.kinds():
        raise ValueError(
            f"`run`: {directory} has no whole proof that could be audited; `lipcert certify run={directory}` computes "
            "one, norm=linf eps=0.3 attacks without one"
        )
    rows = provable(results.best(Kind.PROOF))
    if not rows:
        raise ValueError(f"`run`: {directory} proves a radius of no test image: there is nothing to audit")
    return rows


def check_labels(run: LoadedRun, proofs: Sequence[CertificateRow]) -> None:
    """ValueError where rows are of other labels than the test images have: those are what an audit goes by."""
    labels = run.dataset.test.labels
    for row in proofs:
        if row.index >= len(labels) or int(labels[row.index]) != row.label:
            raise ValueError(
                f"`run`: {run.directory} proves a radius of test image {row.index} with label {row.label}, and its "
                f"test data have no such image; `lipcert certify run={run.directory}` computes its radii anew"
            )


def within_box(row: CertificateRow, shape: Sequence[int]) -> CertificateRow:
    """A row whose radii are no larger than the distance of any two images: larger ones, and unbounded ones, claim the
    same."""
    pixels = math.prod(shape)
    most = 1.000001 * {Norm.L1: pixels, Norm.L2: math.sqrt(pixels), Norm.LINF: 1.0}[Norm(row.norm)]
    single = row.radius_float32
    return row._replace(radius=min(row.radius, most), radius_float32=None if single is None else min(single, most))


def begin(directory: RunDirectory, settings: Settings, again: bool, proofs: Sequence[CertificateRow]) -> dict[str, Any]:
    """The facts of an audit that begins or goes on. Rows of another network, of other radii, or of images of which none
    is proved any more are dropped.

    proofs  of all images of which a radius is proved

    ValueError where there are rows that other settings made.
    """
    fresh: dict[str, Any] = {"settings": settings.fixed(), "network": network_hash(directory), "blocks": {}}
    if again:
        for name in (AUDIT, AUDIT_FACTS):
            directory.forget(name)
    facts = directory.read_json(AUDIT_FACTS) if directory.has(AUDIT_FACTS) else fresh
    if facts.get("network") != fresh["network"]:
        directory.forget(AUDIT)
        facts = fresh
    check_facts(facts, str(directory / AUDIT_FACTS))
    settings.check_same(facts["settings"], f"{directory / AUDIT}")
    now = {row.index: (row.certificate, row.radius, row.radius_float32) for row in proofs}
    drop_rows(
        directory,
        AUDIT,
        AuditRow,
        lambda row: now.get(row.index) != (row.certificate, row.radius, row.radius_float32),
    )
    return facts


def row_of(block: Block, place: int, proof: CertificateRow) -> AuditRow:
    """The row of one image; its distance in float64 is what the judge of attacks says of the image that was found."""
    search = block.search
    double, single = search.double, search.single
    far = verdict(double, place)
    return AuditRow(
        SPLIT,
        proof.index,
        proof.norm,
        proof.certificate,
        proof.radius,
        far,
        far / proof.radius - 1,
        double.attack[place],
        double.factor[place],
        proof.radius_float32,
        float(single.distance[place]) if single else torch.inf,
        single.attack[place] if single else "",
        int(search.pairs[place]),
    )


def verdict(double: Nearest, place: int) -> float:
    """The distance of the image found in float64, judged again by itself."""
    if not bool(double.distance[place].isfinite()):
        return torch.inf
    at = slice(place, place + 1)
    for image in outward(double.x[at], double.image[at]):
        far = float(judge(double.network, double.x[at], double.y[at], image, double.norm).distance)
        if math.isfinite(far):
            return far
    return torch.inf


def save_broken(
    directory: RunDirectory, block: Block, rows: Sequence[AuditRow | None]
) -> list[tuple[Path, dict[str, Any]]]:
    """Saves every image that lies within one of its radii, of which `rows` are those that are due in the block (None:
    nothing is claimed). Returns each file, and what it holds."""
    files = []
    for row, place in zip(rows, block.due, strict=True):
        if row is None:
            continue
        for claim, nearest in (("radius", block.search.double), ("radius_float32", block.search.single)):
            radius = getattr(row, claim)
            far = row.distance if claim == "radius" else row.distance_float32
            if nearest is None or not within(far, radius):
                continue
            name = row.attack if claim == "radius" else row.attack_float32
            image = steady(nearest, place, radius)
            with torch.no_grad():
                logits = nearest.network(image.to(nearest.dtype))
            values = {
                "x": nearest.x[place].cpu().numpy(),
                "x_adv": image[0].cpu().numpy(),
                "label": int(nearest.y[place]),
                "prediction": int(logits.argmax(1)),
                "distance": float(distance(nearest.norm, image, nearest.x[place : place + 1])),
                "radius": radius,
                "norm": row.norm,
                "certificate": row.certificate,
                "attack": name,
                "index": row.index,
                "claim": claim,
            }
            files.append((counterexample.save(directory, values), values))
    return files


def steady(nearest: Nearest, place: int, radius: float) -> Tensor:
    """The image (1, C, H, W) that was found, or the first a little beyond it, within `radius`, that has another label
    by itself and among copies of itself: one at the boundary may be confirmed on no other machine."""
    at = slice(place, place + 1)
    for counts in ((1, counterexample.COPIES), (1,)):
        for image in outward(nearest.x[at], nearest.image[at]):
            image = nearest.legal(image, nearest.x[at])
            if float(distance(nearest.norm, image, nearest.x[at])) > radius:
                break
            copies = [image.expand(count, -1, -1, -1) for count in counts]
            if all(bool(nearest.wrong(each, torch.full((len(each),), place)).all()) for each in copies):
                return image
    return nearest.image[at]


def hold(files: Sequence[tuple[Path, dict[str, Any]]]) -> None:
    """CertificateBroken where counter-examples were saved."""
    if files:
        path, values = files[0]
        more = f" and {len(files) - 1} more there" if len(files) > 1 else ""
        raise CertificateBroken(
            f"image {values['index']}: {values['attack']} found another label at {values['norm']} distance "
            f"{values['distance']!r}, within the {values['claim']} {values['radius']!r} that {values['certificate']} "
            f"certified; see {path}{more}, and `lipcert audit check={path}` checks it"
        )


def finish(run: LoadedRun, facts: dict[str, Any], rows: Sequence[AuditRow]) -> None:
    """Writes what the rows come to, the figure, and the run's record."""
    directory = run.directory
    kept = [block for start, block in facts["blocks"].items() if int(start) < len(rows)]
    attacks = total(block["attacks"] for block in kept)
    for name, mine in attacks.items():
        mine["nearest"] = sum(row.attack == name for row in rows)
        mine["nearest_float32"] = sum(row.attack_float32 == name for row in rows)
    facts |= {
        "norm": rows[0].norm,
        **numbers(rows),
        "seconds": sum(block["seconds"] for block in kept),
        "cpu_seconds": sum(block["cpu_seconds"] for block in kept),
        "attacks": attacks,
    }
    for name, picture in drawn(audit_figure(rows, title_of(directory.path, run.config)), FIGURE).items():
        directory.replace(name, picture)
    directory.write_json(AUDIT_FACTS, facts)
    write_record(directory)
