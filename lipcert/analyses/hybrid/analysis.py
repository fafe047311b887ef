"""The computation of `analysis=hybrid`, from the rows of two runs on the same images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lipcert.analyses.hybrid.attacking import attack_hybrid
from lipcert.analyses.hybrid.claims import Images, hybrid_radius
from lipcert.analyses.hybrid.figures import hybrid_figure
from lipcert.analyses.hybrid.tables import hybrid_table
from lipcert.analyses.hybrid.thresholds import as_csv, at_all, at_threshold, shown
from lipcert.configuration import build, check
from lipcert.contracts import AttackRow, BoundCertificate, CertificateRow, Kind
from lipcert.errors import CertificateBroken
from lipcert.evaluation.load import LoadedRun, read_network
from lipcert.reporting.plotting import drawn
from lipcert.reporting.terminal import console
from lipcert.runs import numbers
from lipcert.runs.config import read_config
from lipcert.runs.directory import RunDirectory
from lipcert.runs.find import title_of
from lipcert.runs.results import Results, network_hash, read_results

ROWS, ATTACKED, CONTENT, FIGURE = "hybrid.csv", "hybrid_attacks.csv", "hybrid.json", "hybrid"
SPLIT = "test"


class Settings(NamedTuple):
    """What the analysis is asked for.

    other      the directory of B's run
    threshold  of A's gap, at which the hybrid is attacked and its numbers are kept; None: at none
    attack     the node of the attack; None: none
    device     where it runs
    """

    other: str | None
    threshold: float | None
    attack: dict[str, Any] | None
    device: str

    def check(self, run: LoadedRun, certificate: dict[str, Any]) -> None:
        """ValueError where there is no hybrid of these; asked before anything is written."""
        if self.other is None:
            raise ValueError(
                "`analysis=hybrid` needs a second run: other=RUN, which is asked where this one's gap is small"
            )
        if self.threshold is not None and not 0 <= self.threshold < math.inf:
            raise ValueError(f"`threshold` must be at least 0, a gap of logits, got {self.threshold}")
        if build(certificate).kind is not Kind.PROOF:
            raise ValueError("`analysis=hybrid` needs a proof of this run: take certificate=pairwise or margin")
        read_config(Path(self.other), "other", parts=())
        second = RunDirectory(self.other)
        if second.manifest()["data"].get(SPLIT) != run.directory.manifest()["data"].get(SPLIT):
            raise ValueError(
                f"`other`: {second} has other test images than {run.directory}, so no hybrid is made of them"
            )
        if not read_results(second).certificates:
            raise ValueError(f"`other`: {second} has no whole certificate: `lipcert certify run={second}` computes one")
        network = read_network(second)
        if (network.shape, network.classes) != (run.network.shape, run.network.classes):
            raise ValueError(
                f"`other`: the network of {second} has other images or classes than that of {run.directory}"
            )
        if self.threshold is not None and self.attack:
            check(self.attack, "attack")
            build(self.node(run.config["eps"]))

    def node(self, eps: list[float]) -> dict[str, Any]:
        """That of the attack; at the radii `eps` where it takes radii and has none of its own."""
        found = dict(self.attack or {})
        return found | {"eps": eps} if found.get("eps", 0) is None else found


def analyse(run: LoadedRun, bound: BoundCertificate, label: str, settings: Settings) -> None:
    """Writes hybrid.csv, hybrid.json and the picture of a run, whose lock is held; with a threshold and an attack also
    hybrid_attacks.csv.

    bound     the certificate of A
    label     what its rows are called
    settings  checked

    ValueError where A's certificate does not rest on a Lipschitz bound of differences of logits. CertificateBroken
    where the attack gets within a radius that is proved of the hybrid.
    """
    if bound.pairs is None or bound.errors is None:
        raise ValueError(
            "`analysis=hybrid` needs a certificate that rests on a Lipschitz bound: take certificate=pairwise or margin"
        )
    directory, second, eps = run.directory, RunDirectory(str(settings.other)), run.config["eps"]
    rows, steepest = read_results(directory).certificates[label], float(bound.pairs.max())
    images = joined(rows, read_results(second), 2 * float(bound.errors.max()), str(second))
    found = at_all(images, steepest, eps)
    content: dict[str, Any] = {
        "other": str(second),
        "other_network": network_hash(second),
        "certificate": label,
        "norm": rows[0].norm,
        "images": len(rows),
        "clean_accuracies": {"run": float(np.mean(images.right)), "other": float(np.mean(images.other_right))},
        "steepest": steepest,
        "thresholds": shown(found),
    }
    attacks: list[AttackRow] = []
    if settings.threshold is not None:
        content |= at_threshold(images, settings.threshold, steepest, eps)
        if settings.attack:
            attacks = attacked(run, read_network(second), settings)
            check_unbroken(attacks, hybrid_radius(images, settings.threshold, steepest), rows[0].norm)
            content |= robust(attacks, eps, rows[0].norm)
    directory.replace(ROWS, as_csv(found))
    directory.forget(ATTACKED)
    if attacks:
        directory.write_rows(ATTACKED, AttackRow, attacks)
    names = (title_of(directory.path, run.config), title_of(second.path, read_config(second.path, trust=True)))
    for name, picture in drawn(hybrid_figure(found, names, settings.threshold), FIGURE).items():
        directory.replace(name, picture)
    directory.write_json(CONTENT, content)


def joined(rows: list[CertificateRow], other: Results, error: float, source: str) -> Images:
    """What is known of A's images, of both networks.

    rows    of A's certificate
    other   what B's run found; what it proves counts where it is in the same norm
    error   the rounding error of a difference of two of A's logits
    source  B's directory, for messages

    ValueError where B's rows are of other images, or where a gap is infinite.
    """
    kinds = other.kinds()
    theirs = other.best(next(iter(kinds)))
    if [(row.index, row.label) for row in rows] != [(row.index, row.label) for row in theirs]:
        raise ValueError(f"`other`: the rows of {source} are of other images or labels")
    proofs = other.best(Kind.PROOF) if Kind.PROOF in kinds else []
    alike = bool(proofs) and proofs[0].norm == rows[0].norm
    gaps = np.array([math.nan if row.gap is None else row.gap for row in rows])
    if not np.isfinite(gaps).all():
        raise ValueError("`analysis=hybrid` needs finite gaps of logits, and this network has others")
    return Images(
        gap=gaps,
        margin=lowered(np.array([row.margin for row in rows]), error),
        radius=np.array([row.radius for row in rows]),
        right=np.array([row.prediction == row.label for row in rows]),
        other_radius=np.array([row.radius for row in proofs] if alike else [0.0] * len(rows)),
        other_right=np.array([row.prediction == row.label for row in theirs]),
    )


def lowered(margins: np.ndarray, error: float) -> np.ndarray:
    """Computed margins less their rounding `error`, and less the roundings of both subtractions."""
    return margins - error - 1e-15 * (np.abs(margins) + error)


def attacked(run: LoadedRun, other: Any, settings: Settings) -> list[AttackRow]:
    """The rows of the attack on the hybrid with `other`, at the threshold."""
    attack, threshold = build(settings.node(run.config["eps"])), float(settings.threshold or 0.0)
    images = run.dataset.test.head(attack.images)
    return attack_hybrid(attack, run.network, other, threshold, images, list(attack.eps or ()), settings.device)


def check_unbroken(rows: list[AttackRow], radii: np.ndarray, norm: str) -> None:
    """CertificateBroken where an attack in the norm of the radii (N,) got within one above 0."""
    for row in rows:
        if row.norm == norm and row.success and 0 < radii[row.index] >= row.distance:
            raise CertificateBroken(
                f"image {row.index}: {row.attack} beat the hybrid at {norm} distance {row.distance!r}, within the "
                f"radius {float(radii[row.index])!r} that was proved of it"
            )


def robust(rows: list[AttackRow], eps: list[float], norm: str) -> dict[str, Any]:
    """`robust_accuracy` {attack: {eps: fraction}} and `attacked_images`, as in summary.json."""
    ((label, tried),) = numbers.attacks(rows)
    at = tried or (eps if rows[0].norm == norm else ())
    return {
        "robust_accuracy": {label: {repr(float(e)): numbers.robust_accuracy(rows, label, e) for e in at}},
        "attacked_images": {label: numbers.attacked_count(rows, label)},
    }


def show(directory: RunDirectory) -> None:
    """A few thresholds on the terminal."""
    terminal = console()
    terminal.print(hybrid_table(directory.read_json(CONTENT)))
    terminal.print(f"hybrid: {directory / ROWS}", soft_wrap=True, highlight=False)
