"""Everything that a run's directory has for a page, read and checked against its rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lipcert.analyses.audit.rows import AuditRow
from lipcert.analyses.tightness.rows import TightnessRow
from lipcert.contracts import AttackRow, CertificateRow, Kind, Norm
from lipcert.runs import numbers
from lipcert.runs.audits import audit_of
from lipcert.runs.directory import RunDirectory
from lipcert.runs.find import Run
from lipcert.runs.layout import AUDIT
from lipcert.runs.results import read_results

TIGHTNESS = ("tightness.csv", "tightness.json")  # of `lipcert certify analysis=tightness`


@dataclass(frozen=True)
class Record:
    """One run, as a page shows it.

    name             what the page calls it
    claims           of each kind of claim that it makes, the strongest first, the best row of each test image
    layers           of the bound of its best certificate: {layer, norm, lipschitz, cost}; [] where it reports none
    audit            a row for each radius that was attacked; [] where the audit is of other radii, or there is none
    audit_facts      the numbers of that audit
    tightness        a row an image; [] where there are none of these radii
    tightness_facts  the numbers of that analysis
    """

    run: Run
    name: str
    claims: Mapping[Kind, Sequence[CertificateRow]]
    layers: Sequence[Mapping[str, Any]]
    audit: Sequence[AuditRow] = ()
    audit_facts: Mapping[str, Any] = field(default_factory=dict)
    tightness: Sequence[TightnessRow] = ()
    tightness_facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> Sequence[CertificateRow]:
        """Those of the strongest kind of claim."""
        return self.run.certificate_rows

    @property
    def word(self) -> str:
        """What a number of that kind is called: certified, statistical or nominal."""
        return numbers.WORDS[self.run.kind]

    @property
    def proved(self) -> bool:
        """Whether its radii are proved."""
        return self.run.kind is Kind.PROOF

    @property
    def norm(self) -> Norm:
        """The norm of its radii."""
        return Norm(self.run.norm)

    @property
    def eps(self) -> list[float]:
        """The radii above 0 at which it reports, in the norm of its radii, in their order."""
        found = map(float, self.run.summary[f"{self.word}_accuracy"])
        return sorted(eps for eps in found if 0 < eps < math.inf)

    @property
    def middle(self) -> float | None:
        """Of `eps` the one at which figures and short lists report; None where it reports at none."""
        return self.eps[len(self.eps) // 2] if self.eps else None


def read_record(run: Run, name: str) -> Record:
    """What the directory of a finished run has for a page. ValueError, in one line, where a file is damaged."""
    directory = RunDirectory(run.path)
    results = read_results(directory)
    kinds = results.kinds()
    claims = {kind: results.best(kind) for kind in kinds}
    layers = results.facts[kinds[run.kind][0]].get("layers", [])
    facts = audit_of(directory, run.certificate_rows) if run.kind is Kind.PROOF else {}
    audit = directory.read_rows(AUDIT, AuditRow)[: facts["images"]] if facts else []
    tightness, content = _tightness(directory, run.certificate_rows)
    return Record(run, name, claims, layers, audit, facts if audit else {}, tightness, content)


def _tightness(directory: RunDirectory, rows: Sequence[CertificateRow]) -> tuple[list[TightnessRow], Mapping[str, Any]]:
    """The rows of the tightness analysis, and its facts; nothing where it was made of other radii than `rows`."""
    if not all(map(directory.has, TIGHTNESS)):
        return [], {}
    found, content = directory.read_rows(TIGHTNESS[0], TightnessRow), directory.read_json(TIGHTNESS[1])
    radii = {row.index: row.radius for row in rows}
    same = all(radii.get(row.index) == row.certified_radius for row in found)
    return (found, content) if found and same and isinstance(content.get("attack"), str) else ([], {})


def reach(record: Record, norm: Norm) -> dict[str, dict[int, float]]:
    """How far each attack in a norm had to go: {attack: {image: the smallest distance at which it was beaten}}.

    A distance is 0 where the clean image is misclassified, and inf where the attack failed. The audit counts as one
    attack: on the images up to the last one that it looked at.
    """
    found: dict[str, dict[int, float]] = {}
    for label, tried in numbers.attacks(record.run.attack_rows):
        if numbers.attack_norm(label) == norm:
            found[label] = _of_attack([row for row in record.run.attack_rows if row.attack == label], tried)
    if record.audit and record.audit[0].norm == norm:
        last = max(row.index for row in record.audit)
        wrong = {row.index: 0.0 for row in record.rows if row.index <= last and row.prediction != row.label}
        rest = {row.index: math.inf for row in record.rows if row.index <= last}
        label = f"audit ({len(record.audit):,} radii, whole suite)"
        found[label] = rest | {row.index: row.distance for row in record.audit} | wrong
    return found


def _of_attack(rows: Sequence[AttackRow], tried: Sequence[float]) -> dict[int, float]:
    distances: dict[int, float] = {}
    times: dict[int, int] = {}
    for row in rows:
        beaten = numbers.beaten(row, row.eps if row.eps is not None else math.inf)
        at = row.distance if 0 <= row.distance < math.inf else row.eps or 0.0
        distances[row.index] = min(distances.get(row.index, math.inf), at if beaten else math.inf)
        times[row.index] = times.get(row.index, 0) + 1
    return {index: at for index, at in distances.items() if times[index] == max(1, len(tried))}


def together(reached: Mapping[str, Mapping[int, float]]) -> dict[int, float]:
    """The smallest distance at which any attack beat each image, of the images that any of them has finished."""
    found: dict[int, float] = {}
    for each in reached.values():
        for index, at in each.items():
            found[index] = min(at, found.get(index, math.inf))
    return found


def standing(distances: Mapping[int, float], eps: float) -> float:
    """The fraction of the attacked images that are rightly classified at eps still: an upper bound of robust accuracy
    on them."""
    return sum(at > eps for at in distances.values()) / len(distances)
