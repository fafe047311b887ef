"""Images in groups of about equal size, sorted by the gap of their two largest logits: what holds of each group."""

from __future__ import annotations

import csv
import io
import itertools
import statistics
from collections.abc import Sequence
from typing import Any

from lipcert.contracts import AttackRow, CertificateRow
from lipcert.runs import numbers

GROUPS = 10


def grouped(
    rows: Sequence[CertificateRow], attack_rows: Sequence[AttackRow], eps: Sequence[float]
) -> list[dict[str, Any]]:
    """The groups, that of the smallest gaps first, each with the numbers that summary.json has of all images.

    rows         one an image, of one kind of claim
    attack_rows  of attacks on some of these images
    eps          radii, in the norm of the rows

    A group has `images`, `least_gap`, `mean_gap` and `largest_gap`, `clean_accuracy`, `certified_accuracy` {eps:
    fraction} under the word of the claim, and `robust_accuracy` {attack: {eps: fraction of the attacked images of the
    group, None where it has none}} with `attacked_images` {attack: number}. ValueError where an image's gap is not
    known, or where there are fewer images than groups.
    """
    if any(row.gap is None for row in rows):
        raise ValueError("`analysis=deciles` needs the gaps of all images: `lipcert certify` computes them anew")
    if len(rows) < GROUPS:
        raise ValueError(f"`analysis=deciles` needs {GROUPS} images at least, and there are {len(rows)}")
    ordered = sorted(rows, key=lambda row: (row.gap, row.index))
    bounds = [round(len(ordered) * k / GROUPS) for k in range(GROUPS + 1)]
    parts = [ordered[low:high] for low, high in itertools.pairwise(bounds)]
    return [_numbers(part, attack_rows, eps) for part in parts]


def _numbers(rows: Sequence[CertificateRow], attack_rows: Sequence[AttackRow], eps: Sequence[float]) -> dict[str, Any]:
    gaps, mine = [row.gap or 0.0 for row in rows], {row.index for row in rows}
    robust: dict[str, dict[str, float | None]] = {}
    attacked: dict[str, int] = {}
    for attack, tried in numbers.attacks(attack_rows):
        own = [row for row in attack_rows if row.attack == attack and row.index in mine]
        at = tried or (eps if numbers.attack_norm(attack) == rows[0].norm else ())
        robust[attack] = {repr(float(e)): numbers.robust_accuracy(own, attack, e) if own else None for e in at}
        attacked[attack] = numbers.attacked_count(own, attack)
    word = numbers.WORDS[numbers.kind_of(rows)]
    return {
        "images": len(rows),
        "least_gap": gaps[0],
        "mean_gap": statistics.fmean(gaps),
        "largest_gap": gaps[-1],
        "clean_accuracy": numbers.clean_accuracy(rows),
        f"{word}_accuracy": {repr(float(e)): numbers.accuracy_within(rows, e) for e in eps},
        "robust_accuracy": robust,
        "attacked_images": attacked,
    }


def extremes(rows: Sequence[CertificateRow], attack_rows: Sequence[AttackRow]) -> dict[str, Any]:
    """The images with the largest and the smallest gap of each class (L2NNN, Figs. 3 and 4): {attack that looks for
    the smallest distance: {"largest" or "smallest": {"class" and label: {index, gap, becomes, distance}}}}.

    Of the attacked images that are classified rightly; `becomes` is None in rows of older versions.
    """
    of, found = {row.index: row for row in rows}, {}
    for attack, tried in numbers.attacks(attack_rows):
        own = [row for row in attack_rows if row.attack == attack and row.success and row.distance > 0]
        pairs = [(of[row.index], row) for row in own if row.index in of and not tried]
        known = [(mine, row) for mine, row in pairs if mine.prediction == mine.label and mine.gap is not None]
        labels = sorted({mine.label for mine, _ in known})
        by_label = {label: [pair for pair in known if pair[0].label == label] for label in labels}
        if known:
            found[attack] = {
                name: {
                    f"class{label}": _extreme(choose(pairs, key=lambda pair: pair[0].gap or 0.0))
                    for label, pairs in by_label.items()
                }
                for name, choose in (("largest", max), ("smallest", min))
            }
    return found


def _extreme(pair: tuple[CertificateRow, AttackRow]) -> dict[str, Any]:
    mine, row = pair
    return {"index": mine.index, "gap": mine.gap, "becomes": row.prediction, "distance": row.distance}


def flat(group: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a group under one name each: `clean`, `certified 0.3`, `pgd_l2-40 0.3`."""
    found = {"clean": group["clean_accuracy"]}
    for word in numbers.WORDS.values():
        found |= {f"{word} {e}": value for e, value in group.get(f"{word}_accuracy", {}).items()}
    for attack, values in group["robust_accuracy"].items():
        found |= {f"{attack} {e}": value for e, value in values.items()}
    return found


def as_csv(groups: Sequence[dict[str, Any]]) -> str:
    """deciles.csv: a line a group; nothing where a group has no attacked image."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    own = ("images", "least_gap", "mean_gap", "largest_gap")
    writer.writerow(["group", *own, *(name.replace(" ", "_") for name in flat(groups[0]))])
    for number, group in enumerate(groups, start=1):
        values = [*(group[key] for key in own), *flat(group).values()]
        writer.writerow([number, *("" if value is None else repr(value) for value in values)])
    return out.getvalue()
