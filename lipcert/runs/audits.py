"""What the record of a run says of its audit, as long as the radii are those that were audited."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from lipcert.contracts import CertificateRow
from lipcert.runs.directory import RunDirectory
from lipcert.runs.layout import AUDIT_FACTS
from lipcert.runs.results import network_hash

COUNTS = ("images", "pairs", "broken", "found")
FACTORS = ("smallest_noticed", "smallest_noticed_float32", "median_noticed")  # null where nothing was found


def audit_of(run: RunDirectory, rows: Sequence[CertificateRow]) -> dict[str, Any]:
    """The numbers of an audit that came to its end; {} where there is none of these radii.

    rows  the best proof of each image
    """
    if not run.has(AUDIT_FACTS):
        return {}
    try:
        facts = run.read_json(AUDIT_FACTS)
    except ValueError as error:
        print(f"lipcert: {error}", file=sys.stderr)
        return {}
    counted = all(type(facts.get(key)) is int for key in COUNTS)
    known = all(facts.get(key) is None or type(facts[key]) in (int, float) for key in FACTORS)
    if not counted or not known or facts.get("network") != network_hash(run):
        return {}
    if facts.get("radii") != fingerprint(provable(rows)[: facts["images"]]):
        return {}
    return {key: facts.get(key) for key in (*COUNTS, *FACTORS)}


def provable(rows: Iterable[CertificateRow]) -> list[CertificateRow]:
    """The rows with a radius that can be attacked: above 0."""
    return [row for row in rows if row.radius > 0]


def fingerprint(rows: Iterable[CertificateRow]) -> str:
    """The SHA-256 of the radii of images."""
    lines = (f"{row.index} {row.radius!r} {row.radius_float32!r}\n" for row in rows)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
