"""What a run's certificates and attacks found: their rows, and the facts without which rows say nothing.

Facts are {split: {label: {...}}}, with the number of images that are due: rows count as soon as they are whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from lipcert.contracts import AttackRow, CertificateRow, Kind, Norm, StabilityRow
from lipcert.runs.directory import RunDirectory
from lipcert.runs.layout import ATTACK_FACTS, ATTACKS, CERTIFICATE_FACTS, CERTIFICATES, NETWORK, STABILITY
from lipcert.runs.tried import Tried

# Numbers among the facts of a certificate; null, or left out, where it has none.
NUMBERS = (
    "lipschitz_bound",
    "lipschitz_of_logits",
    "lipschitz_of_pairs",
    "lipschitz_by_construction",
    "enlargement",
    "gram_slack",
    "failure_probability",
)
STRENGTH = (Kind.PROOF, Kind.STATISTICAL, Kind.NOMINAL)  # of a claim, the strongest first


class Results(NamedTuple):
    """What numbers of one split of a run may come from.

    certificates  {label: its rows in the order of the images}, of those that are whole
    facts         {label: its facts}, of the same
    attacks       the rows of attacks that are whole, at the radii at which they are
    stability     the rows of stability.csv
    unfinished    what was left out: labels, at which radius, how many images of how many
    attempts      the rows of all attacks, whole or not: any of them may break a certificate
    multiples     the rows of attacks that are whole at a multiple of each image's own certified radius
    """

    certificates: dict[str, list[CertificateRow]]
    facts: dict[str, dict[str, Any]]
    attacks: list[AttackRow]
    stability: list[StabilityRow]
    unfinished: list[str]
    attempts: Sequence[AttackRow] = ()
    multiples: Sequence[AttackRow] = ()

    def kinds(self) -> dict[Kind, list[str]]:
        """The kinds of claim that were made, the strongest first, each with its certificates, the best one first."""
        found: dict[Kind, list[str]] = {}
        for kind in STRENGTH:
            labels = [label for label, facts in self.facts.items() if facts["kind"] == kind]
            if labels:
                found[kind] = sorted(labels, key=lambda label: -sum(row.radius for row in self.certificates[label]))
        return found

    def best(self, kind: Kind) -> list[CertificateRow]:
        """Of each image the row with the largest radius, among the certificates of one kind, with the largest
        `radius_float32` and the `gap` that any of them knows.

        Each of several proofs holds, so the largest radius does. ValueError where they are of different answers.
        """
        columns = [self.certificates[label] for label in self.kinds()[kind]]
        for rows in zip(*columns, strict=True):
            if len({(row.index, row.label, row.prediction, row.norm) for row in rows}) > 1:
                raise ValueError(f"the certificates disagree on image {rows[0].index}: they are of different networks")
        found = []
        for rows in zip(*columns, strict=True):
            singles = [row.radius_float32 for row in rows if row.radius_float32 is not None]
            single = max(singles, key=_or_none, default=None)
            gap = next((row.gap for row in rows if row.gap is not None), None)
            found.append(max(rows, key=lambda row: _or_none(row.radius))._replace(radius_float32=single, gap=gap))
        return found

    def own_radii(self, norm: str) -> dict[int, float]:
        """Of each image the largest radius that was proved in `norm`, where it is above 0 and bounded."""
        found: dict[int, float] = {}
        for label, facts in self.facts.items():
            for row in self.certificates[label] if (facts["kind"], facts["norm"]) == (Kind.PROOF, norm) else ():
                if found.get(row.index, 0.0) < row.radius < math.inf:
                    found[row.index] = row.radius
        return found


def _or_none(radius: float) -> float:
    """A radius as a key of max, below all others where it is not a number."""
    return radius if radius == radius else -math.inf


def read_facts(run: RunDirectory, name: str, split: str = "test") -> dict[str, dict[str, Any]]:
    """The facts of a split's certificates or attacks; {} where there are none. `name` is that of their file."""
    facts = run.read_json(name).get(split, {}) if run.has(name) else {}
    if not isinstance(facts, dict):
        raise ValueError(f"{run / name} does not hold the facts of {name.removesuffix('.json')}")
    for label, item in facts.items():
        whole = isinstance(item, dict) and (_is_certificate if name == CERTIFICATE_FACTS else _is_attack)(item)
        if not whole or not label.isprintable() or len(label) > 200:
            raise ValueError(f"{run / name} is damaged at {label[:100]!r}")
    return facts


def _is_certificate(facts: Mapping[str, Any]) -> bool:
    seconds, layers, smallest = facts.get("seconds"), facts.get("layers", []), facts.get("smallest_bound")
    return (
        all(isinstance(facts.get(key), str) for key in ("certificate", "target", "device", "network"))
        and _is_count(facts.get("images"))
        and facts.get("kind") in list(Kind)
        and facts.get("norm") in list(Norm)
        and isinstance(seconds, dict)
        and seconds.keys() == {"bound", "certify"}
        and all(map(_is_number, seconds.values()))
        and all(facts.get(key) is None or _is_number(facts[key]) for key in NUMBERS)
        and (smallest is None or (isinstance(smallest, dict) and all(map(_is_count, smallest.values()))))
        and _is_float32(facts.get("float32", {}))
        and isinstance(layers, list)
        and all(isinstance(row, dict) and isinstance(row.get("layer"), str) for row in layers)
        and all(row.get(key) is None or _is_number(row[key]) for row in layers for key in ("norm", "lipschitz", "cost"))
    )


def _is_float32(report: Any) -> bool:
    """Whether it is what `frozen.deployed.Deployed.report` says."""
    return (
        isinstance(report, dict)
        and all(report.get(key) is None or isinstance(report[key], str) for key in ("layer", "refused"))
        and all(report.get(key) is None or _is_number(report[key]) for key in ("error", "share"))
    )


def _is_attack(facts: Mapping[str, Any]) -> bool:
    counts = (facts.get("images"), facts.get("wanted"))
    return (
        all(isinstance(count, dict) and all(map(_is_count, count.values())) for count in counts)
        and facts["images"].keys() == facts["wanted"].keys()
        and _is_number(facts.get("seconds"))
        and all(isinstance(facts.get(key), str) for key in ("target", "network"))
        and isinstance(facts.get("settings"), dict)
        and isinstance(facts.get("radii", []), list)
        and all(map(_is_number, facts.get("radii", [])))
        and facts.get("norm") in list(Norm)
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def write_facts(run: RunDirectory, name: str, label: str, facts: Mapping[str, Any], split: str = "test") -> None:
    """Replaces the facts of one certificate or attack."""
    everything = run.read_json(name) if run.has(name) else {}
    everything.setdefault(split, {})[label] = dict(facts)
    run.write_json(name, everything)


def read_results(run: RunDirectory, split: str = "test") -> Results:
    """All that is whole of a split. ValueError, in one line, where the rows are not those that the facts speak of."""
    certificates: dict[str, list[CertificateRow]] = {}
    kept: dict[str, dict[str, Any]] = {}
    unfinished: list[str] = []
    for label, facts in read_facts(run, CERTIFICATE_FACTS, split).items():
        kept[label], certificates[label] = facts, []
    for row in run.read_rows(CERTIFICATES, CertificateRow):
        if row.split == split:
            facts = kept.get(row.certificate, {})
            if not facts or (row.norm, row.kind) != (facts["norm"], facts["kind"]):
                raise ValueError(
                    f"{run / CERTIFICATES} has rows that {CERTIFICATE_FACTS} does not: {row.certificate[:100]!r}"
                )
            certificates[row.certificate].append(row)
    network = network_hash(run)
    for label in list(certificates):
        due, old = kept[label]["images"], kept[label]["network"] != network
        if not whole(certificates[label], due, f"{run / CERTIFICATES}: {label}") or old:
            why = "of an earlier network" if old else f"{len(certificates[label])} of {due} images"
            unfinished.append(f"{label} ({why})")
            del kept[label], certificates[label]
        else:
            certificates[label].sort(key=lambda row: row.index)
    attempts = [row for row in run.read_rows(ATTACKS, AttackRow) if row.split == split]
    stability = [row for row in run.read_rows(STABILITY, StabilityRow) if row.split == split]
    found = Results(certificates, kept, [], stability, unfinished, attempts)
    rows = _whole_attacks(run, split, found, network)
    attacks, multiples = ([row for row in rows if (row.factor is None) is fixed] for fixed in (True, False))
    return found._replace(attacks=attacks, multiples=multiples)


def network_hash(run: RunDirectory) -> str:
    """What identifies the frozen network of a run: the hash of the file that has the hash of the other one."""
    entry = run.manifest()["files"].get(f"{NETWORK}/network.json")
    return entry["sha256"][-1] if entry else ""


def drop_rows(run: RunDirectory, name: str, row_type: type, dropped: Callable[[Any], bool]) -> None:
    """Takes rows out of a file."""
    rows: list[Any] = run.read_rows(name, row_type)
    if any(map(dropped, rows)):
        run.write_rows(name, row_type, [row for row in rows if not dropped(row)])


def whole(
    rows: Sequence[CertificateRow | AttackRow], due: int, what: str, own_radii: Mapping[int, float] | None = None
) -> bool:
    """Whether rows are of the first `due` images, each once; at multiples of `own_radii`, of those that have one, and
    at that multiple. ValueError where one comes twice, or is not among them.
    """
    indices = {row.index for row in rows}
    if len(indices) < len(rows):
        raise ValueError(f"{what}: {len(rows)} rows are of only {len(indices)} images, and each may be counted once")
    if indices and not (min(indices) >= 0 and max(indices) < due):
        raise ValueError(f"{what}: rows of images {min(indices)} to {max(indices)}, but {due} images are due")
    if rows and isinstance(rows[0], AttackRow) and (factor := rows[0].factor) is not None:
        radii = {i: factor * radius for i, radius in (own_radii or {}).items() if i < due}
        return {row.index: row.eps for row in rows if isinstance(row, AttackRow)} == radii
    return len(rows) == due > 0


def _whole_attacks(run: RunDirectory, split: str, results: Results, network: str) -> list[AttackRow]:
    """The rows of `results.attempts` that count; what is left out is added to `results.unfinished`."""
    facts = read_facts(run, ATTACK_FACTS, split)
    groups: dict[tuple[str, Tried], list[AttackRow]] = {}
    for row in results.attempts:
        groups.setdefault((row.attack, Tried.of(row)), []).append(row)
    kept: dict[tuple[str, Tried], int] = {}  # how many images count
    for (label, tried), group in groups.items():
        where = f"{label} at {tried.key}"
        if label not in facts or tried.key not in facts[label]["images"]:
            raise ValueError(f"{run / ATTACKS} has rows that {ATTACK_FACTS} does not: {label[:100]!r} at {tried.key}")
        wanted, images = (facts[label][count][tried.key] for count in ("wanted", "images"))
        for due in sorted({wanted, images}, reverse=True):
            within = [row for row in group if row.index < due]
            done = whole(within, due, f"{run / ATTACKS}: {where}", results.own_radii(facts[label]["norm"]))
            if facts[label]["network"] == network and done:
                kept[label, tried] = due
                break
        if kept.get((label, tried), 0) < wanted:
            counted = f", of which the first {kept[label, tried]} count" if (label, tried) in kept else ""
            certified = " with a certified radius, or at radii of before" if tried.factor is not None else ""
            results.unfinished.append(f"{where} ({len(group)} of {wanted} images{certified}{counted})")
    return [row for row in results.attempts if row.index < kept.get((row.attack, Tried.of(row)), 0)]
