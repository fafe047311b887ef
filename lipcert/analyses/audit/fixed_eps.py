"""Every image attacked at one eps in a norm in which nothing is proved, and whether gradients are masked."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lipcert.analyses.audit import masking
from lipcert.analyses.audit.analysis import hold, row_of, save_broken, within_box
from lipcert.analyses.audit.block import Block, Claim, blocks
from lipcert.analyses.audit.rows import AuditRow, FixedRow, check_facts, one_of, robust_accuracy, total, within
from lipcert.analyses.audit.settings import Settings
from lipcert.contracts import CertificateRow, Kind, Norm
from lipcert.errors import CertificateBroken
from lipcert.evaluation.load import LoadedRun
from lipcert.frozen.exact import exact_arithmetic
from lipcert.runs.audits import provable
from lipcert.runs.directory import RunDirectory
from lipcert.runs.layout import AUDIT_EPS, AUDIT_EPS_FACTS
from lipcert.runs.results import drop_rows, network_hash, read_results

SPLIT = "test"
DIAGNOSED = 500  # images, the first ones, that gradient masking is looked for on


def attack(run: LoadedRun, norm: Norm, eps: float, settings: Settings, again: bool) -> None:
    """Attacks the first `settings.images` test images of a run whose lock is held; it goes on where it was stopped.

    What is left is the robust accuracy. CertificateBroken where an image lies within a radius that the run proves in
    this norm; ValueError where float32 can't hold the network.
    """
    check_single(run)
    directory, key = run.directory, f"{norm} {eps!r}"
    settings = settings._replace(factors=(1.0,))
    if again:
        directory.forget(AUDIT_EPS)  # first: without facts, rows would count as those of these settings
        directory.forget(AUDIT_EPS_FACTS)
    everything = directory.read_json(AUDIT_EPS_FACTS) if directory.has(AUDIT_EPS_FACTS) else {}
    fresh = {"settings": settings.fixed(), "network": network_hash(directory), "blocks": {}}
    facts: dict[str, Any] = everything.get(key, fresh)
    check_facts(facts, str(directory / AUDIT_EPS_FACTS))
    if facts.get("network") != fresh["network"]:
        drop_rows(directory, AUDIT_EPS, FixedRow, lambda row: (row.norm, row.eps) == (norm, eps))
        facts = fresh
    settings.check_same(facts["settings"], f"what {directory} has of {key}")
    images = run.dataset.test
    proofs = proofs_in(directory, norm, run.network.shape)
    count = len(images) if settings.images is None else min(settings.images, len(images))
    own = {row.index: row for row in directory.read_rows(AUDIT_EPS, FixedRow) if (row.norm, row.eps) == (norm, eps)}
    for row in filter(lambda row: row.index in proofs, own.values()):
        proof = proofs[row.index]
        if within(row.distance, proof.radius) or within(row.distance_float32, proof.radius_float32):
            raise CertificateBroken(
                f"image {row.index} in {directory / AUDIT_EPS}: {row.attack} found another label within the radius "
                f"that {proof.certificate} certified; again=true attacks anew"
            )
    claims = [Claim(index, eps, eps) for index in range(count)]
    found = blocks(run.network, norm, images, claims, settings, lambda claim: claim.index in own, f"audit at {key}")
    for block in found:
        facts["blocks"][str(block.start)] = block.facts
        directory.write_json(AUDIT_EPS_FACTS, everything | {key: facts})
        before = {place: own.get(block.claims[place].index) for place in block.due}
        fallen = {place for place, row in before.items() if row and min(row.distance, row.distance_float32) <= eps}
        block = block._replace(due=[place for place in block.due if place not in fallen])
        new = rows_of(block, norm, eps)
        saved = save_broken(directory, block, against(proofs, block))
        drop_rows(directory, AUDIT_EPS, FixedRow, one_of({row.index for row in new}, norm=norm, eps=eps))
        directory.append_rows(AUDIT_EPS, new)
        hold(saved)
        own |= {row.index: row for row in new}
    rows = [own[index] for index in range(count)]
    taken = images.head(min(count, DIAGNOSED))
    with exact_arithmetic():
        diagnosis = masking.diagnose(
            run.network,
            taken.pixels().to(settings.device).double() / 255,
            taken.labels.to(settings.device).long(),
            norm=norm,
            eps=eps,
            seed=settings.seed,
            device=settings.device,
        )
    left = [*diagnosis.left.tolist(), *[True] * (count - len(taken))]
    standing = [
        row.distance > eps and row.distance_float32 > eps and stood for row, stood in zip(rows, left, strict=True)
    ]
    kept = [block for start, block in facts["blocks"].items() if int(start) < count]
    facts |= {
        "norm": norm,
        "eps": eps,
        "images": len(rows),
        "pairs": sum(row.pairs for row in rows),
        "clean_accuracy": statistics.fmean(row.prediction == row.label for row in rows),
        "robust_accuracy": robust_accuracy(rows, eps),
        "robust_accuracy_float32": robust_accuracy(rows, eps, single=True),
        "smallest_robust_accuracy": statistics.fmean(standing),
        "diagnosis": diagnosis.numbers,
        "findings": diagnosis.findings,
        "seconds": sum(block["seconds"] for block in kept),
        "cpu_seconds": sum(block["cpu_seconds"] for block in kept),
        "attacks": total(block["attacks"] for block in kept),
    }
    for name, mine in facts["attacks"].items():
        mine["nearest"] = sum(row.attack == name for row in rows)
        mine["nearest_float32"] = sum(row.attack_float32 == name for row in rows)
    directory.write_json(AUDIT_EPS_FACTS, everything | {key: facts})


def check_single(run: LoadedRun) -> None:
    """ValueError where float32 can't hold the network: gradient masking is looked for in both arithmetics."""
    try:
        run.network.to(dtype=torch.float32)
    except ValueError as error:
        raise ValueError(
            f"`norm` and `eps`: float32 can't hold the network of {run.directory} ({error}), and is attacked besides; "
            "without the two, an audit of radii is of float64 alone"
        ) from None


def proofs_in(directory: RunDirectory, norm: Norm, shape: Sequence[int]) -> dict[int, CertificateRow]:
    """{index: the row of its largest proved radius} in a norm, no larger than any two images of `shape` are apart; {}
    where none is proved in it."""
    results = read_results(directory)
    rows = provable(results.best(Kind.PROOF)) if Kind.PROOF in results.kinds() else []
    return {row.index: within_box(row, shape) for row in rows if row.norm == norm}


def against(proofs: Mapping[int, CertificateRow], block: Block) -> list[AuditRow | None]:
    """What was found of each image that is due in a block, beside what is proved of it; None where nothing is."""
    found = [(place, proofs.get(block.claims[place].index)) for place in block.due]
    return [None if proof is None else row_of(block, place, proof) for place, proof in found]


@torch.no_grad()
def rows_of(block: Block, norm: Norm, eps: float) -> list[FixedRow]:
    """The rows of the images of a block that were asked for."""
    search = block.search
    double, single = search.double, search.single
    prediction = double.network(search.x).argmax(1).tolist()
    clean = double.wrong(search.x, torch.arange(len(search.x), device=search.x.device)).tolist()
    return [
        FixedRow(
            SPLIT,
            block.claims[place].index,
            norm,
            eps,
            int(search.y[place]),
            prediction[place],
            0.0 if clean[place] else float(double.distance[place]),
            double.attack[place],
            float(single.distance[place]) if single else torch.inf,
            single.attack[place] if single else "",
            int(search.pairs[place]),
        )
        for place in block.due
    ]
