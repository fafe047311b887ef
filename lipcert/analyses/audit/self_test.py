"""Whether an audit notices what it is there to notice: forged certificates, searched by the same machinery."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lipcert.analyses.audit.analysis import proved
from lipcert.analyses.audit.block import blocks
from lipcert.analyses.audit.forgeries import Forgery, of_run
from lipcert.analyses.audit.settings import Settings
from lipcert.analyses.audit.traps import traps
from lipcert.evaluation.load import LoadedRun
from lipcert.reporting.rounding import count
from lipcert.runs.layout import AUDIT_SELF_TEST
from lipcert.runs.results import network_hash

if TYPE_CHECKING:
    from rich.table import Table

IMAGES = 200  # at most, of each forgery


def test(run: LoadedRun, settings: Settings) -> dict[str, Any]:
    """Forges certificates for a run whose lock is held, and looks which of them the audit catches.

    What is found goes to a file of its own, and nowhere else: no certificate of the run is touched. Returns what is
    written: of each forgery how many images were claimed of, on how many of them it was caught, and the nearest image
    with another label: by which attack, at which multiple of the forged radius, in which arithmetic.
    """
    bounded = [row for row in proved(run.directory) if row.radius < float("inf")]
    if not bounded:
        raise ValueError(f"`run`: {run.directory} proves nothing but unbounded radii: they can't be made larger")
    proofs = bounded[: min(settings.images or IMAGES, IMAGES)]
    forgeries = itertools.chain(of_run(run, proofs), traps(settings.seed))
    found = [caught(forgery, settings) for forgery in forgeries]
    content = {
        "settings": settings.fixed(),
        "network": network_hash(run.directory),
        "images": len(proofs),
        "forgeries": found,
    }
    run.directory.write_json(AUDIT_SELF_TEST, content)
    return content


def caught(forgery: Forgery, settings: Settings) -> dict[str, Any]:
    """What the search finds of one forgery."""
    images, best = 0, (float("inf"), "", "")
    found = blocks(
        forgery.network, forgery.norm, forgery.images, forgery.claims, settings, what=f"self-test, {forgery.name}"
    )
    for block in found:
        search = block.search
        for place, claim in enumerate(block.claims):
            pairs = [(search.double, claim.radius, "float64")]
            if search.single and claim.radius_float32:
                pairs.append((search.single, claim.radius_float32, "float32"))
            ratios = [(float(one.distance[place]) / radius, one.attack[place], name) for one, radius, name in pairs]
            images += min(ratios)[0] <= 1
            best = min(best, *ratios)
    return {
        "forged": forgery.name,
        "images": len(forgery.claims),
        "caught": images,
        "nearest": best[0] if best[0] < float("inf") else None,
        "attack": best[1],
        "arithmetic": best[2],
    }


def table(content: Mapping[str, Any]) -> Table:
    """What was forged, and what was caught."""
    from rich import box
    from rich.table import Table

    result = Table(box=box.SIMPLE_HEAD)
    result.add_column("forged", overflow="fold")
    for heading in ("images", "caught on", "nearest, × forged radius"):
        result.add_column(heading, justify="right")
    result.add_column("by", overflow="fold")
    for row in content["forgeries"]:
        near = "–" if row["nearest"] is None else f"{row['nearest']:.4g}"
        by = row["attack"] if row["caught"] else "NOT caught"
        result.add_row(row["forged"], count(row["images"]), count(row["caught"]), near, by)
    return result


def in_words(content: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """How many of the forgeries were caught, and which were not."""
    missed = [row["forged"] for row in content["forgeries"] if not row["caught"]]
    caught_ = f"{len(content['forgeries']) - len(missed)} of {len(content['forgeries'])} forgeries were caught"
    if not missed:
        return f"{caught_}."
    return f"{caught_}. Not caught: {'; '.join(missed)}. The suite can't notice errors of this size in this run."
