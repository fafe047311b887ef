"""Every number that is claimed of a run, as a query on its rows. Fractions are of 1; radii and eps are in pixel units.

ValueError where there are no rows, where an image comes twice (ranks repeat samples), where kinds of claim are mixed.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterable, Sequence

from lipcert.contracts import AttackRow, CertificateRow, Kind, Norm, StabilityRow

# What a number of each kind is called, in every key, column and legend.
WORDS = {Kind.PROOF: "certified", Kind.STATISTICAL: "statistical", Kind.NOMINAL: "nominal"}
# The largest of a column of stability.csv: the key of summary.json, and what it is called elsewhere.
MAXIMA = {
    "max_loss_gradient": ("loss_gradient", "steepest loss gradient"),
    "max_jacobian": ("jacobian", "largest Jacobian norm"),
    "max_jacobian_rows": ("jacobian_rows", "steepest logit gradient"),
}


def kind_of(rows: Sequence[CertificateRow]) -> Kind:
    """The one kind of claim that all rows make."""
    _once(rows)
    kinds = sorted({row.kind for row in rows})
    if len(kinds) > 1 or kinds[0] not in list(Kind):
        raise ValueError(f"one kind of claim is due ({', '.join(Kind)}), got {', '.join(map(repr, kinds))}")
    return Kind(kinds[0])


def clean_accuracy(rows: Sequence[CertificateRow]) -> float:
    """Fraction of images whose prediction is their label."""
    return _mean(rows, _correct)


def certified_accuracy(rows: Sequence[CertificateRow], eps: float) -> float:
    """Fraction of images classified rightly and proved to stay so within eps. ValueError unless all rows are PROOF."""
    kind = kind_of(rows)
    if kind is not Kind.PROOF:
        raise ValueError(f"only a proof may be called certified, these rows are {kind}")
    return accuracy_within(rows, eps)


def accuracy_within(rows: Sequence[CertificateRow], eps: float) -> float:
    """Fraction of images that are classified rightly with a radius of eps or more, whatever kind of claim it is."""
    kind_of(rows)
    return _mean(rows, lambda row: _correct(row) and row.radius >= eps)


def mean_radius(rows: Sequence[CertificateRow]) -> float:
    """Mean radius, 0 where the prediction is wrong."""
    kind_of(rows)
    return _mean(rows, _radius)


def median_radius(rows: Sequence[CertificateRow]) -> float:
    """Median radius, 0 where the prediction is wrong."""
    kind_of(rows)
    return statistics.median(map(_radius, rows))


def mean_gap(rows: Sequence[CertificateRow]) -> float:
    """Mean margin in logits, 0 where the prediction is wrong."""
    return _mean(rows, lambda row: max(row.margin, 0.0))


def mean_top_gap(rows: Sequence[CertificateRow]) -> float | None:
    """Mean of the largest minus the second largest logit over all images, rightly classified or not; None where a row
    of an older version does not say it."""
    return None if any(row.gap is None for row in rows) else _mean(rows, lambda row: row.gap)


def attacks(rows: Iterable[AttackRow]) -> list[tuple[str, tuple[float, ...]]]:
    """(label, radii tried) of each attack, in order of appearance; no radii if it looks for the smallest distance."""
    found: dict[str, set[float]] = {}
    for row in rows:
        found.setdefault(row.attack, set()).update(() if row.eps is None else (row.eps,))
    return [(label, tuple(sorted(eps))) for label, eps in found.items()]


def attack_norm(label: str) -> Norm:
    """The norm that an attack's label names, as in pgd_linf-40. ValueError where it names none or several."""
    named = set(re.findall(r"(?<![a-z0-9])(?:l1|l2|linf)(?![a-z0-9])", label))
    if len(named) != 1:
        raise ValueError(f"the label of an attack must name its norm, l2, linf or l1, as in pgd_l2-40; got {label!r}")
    return Norm(named.pop())


def attack_rows_at(rows: Iterable[AttackRow], attack: str, eps: float) -> list[AttackRow]:
    """The rows that decide who withstands `attack` at eps: those tried at exactly eps, else the smallest distances."""
    mine = [row for row in rows if row.attack == attack]
    deciding = [row for row in mine if row.eps == eps] or [row for row in mine if row.eps is None]
    if not deciding:
        tried = ", ".join(sorted({repr(row.eps) for row in mine})) or "no eps at all"
        raise ValueError(f"attack {attack!r} was not tried at eps {eps!r}, only at {tried}")
    _once(deciding)
    return deciding


def robust_accuracy(rows: Iterable[AttackRow], attack: str, eps: float) -> float:
    """Fraction of the attacked images that `attack` leaves rightly classified at eps."""
    return _mean(attack_rows_at(rows, attack, eps), lambda row: not beaten(row, eps))


def distances(rows: Iterable[AttackRow], attack: str) -> list[float]:
    """Of an attack that looks for the smallest distance, what it found of each image: 0 where the clean image is
    misclassified, inf where it failed."""
    mine = [row for row in rows if row.attack == attack]
    if any(row.eps is not None for row in mine):
        raise ValueError(f"attack {attack!r} was tried at given radii: it looks for no smallest distance")
    _once(mine)
    return [0.0 if beaten(row, 0.0) else row.distance if beaten(row, math.inf) else math.inf for row in mine]


def median_distance(rows: Iterable[AttackRow], attack: str) -> float:
    """Median of `distances`: half of the images are misclassified within it."""
    return statistics.median(distances(rows, attack))


def attacked_count(rows: Iterable[AttackRow], attack: str) -> int:
    """How many images `attack` has finished: has tried at each of its radii."""
    images: dict[float | None, set[int]] = {}
    for row in rows:
        if row.attack == attack:
            images.setdefault(row.eps, set()).add(row.index)
    return len(set.intersection(*images.values())) if images else 0


def at_multiples(rows: Iterable[AttackRow]) -> dict[str, dict[float, list[AttackRow]]]:
    """{attack: {factor: rows}} of attacks at multiples of each image's own certified radius, the smallest first."""
    found: dict[str, dict[float, list[AttackRow]]] = {}
    for row in sorted(rows, key=lambda row: row.factor or 0.0):
        if row.factor is not None:
            found.setdefault(row.attack, {}).setdefault(row.factor, []).append(row)
    return found


def beaten(row: AttackRow, eps: float) -> bool:
    """Whether the image is misclassified at eps. In doubt it is: where a distance is NaN, or 0 without a success."""
    if row.eps is not None:
        return row.success or row.distance == 0
    return row.distance == 0 or (row.success and not row.distance > eps)


def broken_certificates(
    certificate_rows: Iterable[CertificateRow], attack_rows: Iterable[AttackRow], norm: str
) -> list[tuple[CertificateRow, AttackRow]]:
    """Each proof, of a radius above 0 in `norm`, with an attack in the same norm that succeeded within that radius.

    Must be empty. An estimate can't be broken, only wrong: rows of other kinds are passed over.
    """
    proofs = {row.index: row for row in certificate_rows if row.kind == Kind.PROOF and _radius(row) > 0}
    return [
        (proofs[row.index], row)
        for row in attack_rows
        if row.index in proofs
        and attack_norm(row.attack) == norm
        and (row.success or row.distance == 0)
        and not row.distance > proofs[row.index].radius
    ]


def maxima(rows: Sequence[StabilityRow]) -> dict[str, float]:
    """The largest of each column among the test images, {} of none: bounds from below of the Lipschitz constants of
    the loss, of the logits and of one logit."""
    return {key: max(getattr(row, column) for row in rows) for key, (column, _) in MAXIMA.items()} if rows else {}


def _correct(row: CertificateRow) -> bool:
    return row.prediction == row.label


def _radius(row: CertificateRow) -> float:
    return row.radius if _correct(row) else 0.0


def _once(rows: Sequence[CertificateRow] | Sequence[AttackRow]) -> None:
    if not rows:
        raise ValueError("there are no rows to count")
    if len(indices := {row.index for row in rows}) < len(rows):
        raise ValueError(f"{len(rows)} rows are of only {len(indices)} images: each may be counted once")


def _mean(rows: Sequence, value: Callable[..., float]) -> float:
    _once(rows)
    return statistics.fmean(map(value, rows))
