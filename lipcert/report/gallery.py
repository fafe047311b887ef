"""The pictures of a run as blocks of a page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lipcert.errors import one_line
from lipcert.report.blocks import Card, Gallery, Picture, Piece, Text
from lipcert.report.record import Record
from lipcert.report.sections import finite
from lipcert.reporting.plotting import NORMS
from lipcert.reporting.rounding import decimal
from lipcert.runs import numbers

if TYPE_CHECKING:
    from lipcert.report.pictures import Attacked, Kept


def gallery(record: Record, prefix: str, count: int, data_dir: str | None, trust: bool) -> list[Piece]:
    """The pictures of a run, or a sentence that says why there are none.

    prefix  begins the names of the pictures
    count   how many of each sort
    """
    if not count:
        return [Text("This page was made without pictures (images=0).")]
    from lipcert.report.pictures import pictures

    try:
        found = pictures(record, count, data_dir=data_dir, trust=trust)
    except (ValueError, OSError) as error:
        return [Text(f"There are no pictures: {one_line(error, 400)}", "note")]
    return list(_blocks(record, prefix, found.largest, found.smallest, found.kept))


def _blocks(
    record: Record, prefix: str, largest: Sequence[Attacked], smallest: Sequence[Attacked], kept: Sequence[Kept]
) -> Iterator[Piece]:
    if kept:
        yield Text(
            "Visibly different, and proved to keep the label: the image with the largest certified radius of its "
            "class, moved by 98 % of that radius towards the mean image of another class. The "
            "network was asked, and agrees."
        )
        yield Gallery([_kept(one, number, prefix) for number, one in enumerate(kept, 1)])
    for name, chosen in (("largest", largest), ("smallest", smallest)):
        if chosen:
            yield Text(
                f"The {name} gaps among the images that are classified rightly, each with the nearest image of another "
                "label that was found for this page (by a minimum-norm attack, and on the way to images of other "
                "labels). What was found shows a distance at which the image is not robust; it proves nothing."
            )
            yield Gallery([_attacked(record, one, f"{prefix}{name}-{i}") for i, one in enumerate(chosen, 1)])


def _kept(one: Kept, number: int, prefix: str) -> Card:
    norm, row = NORMS.get(one.row.norm, one.row.norm), one.row  # type: ignore[call-overload]
    key = f"{prefix}kept-{number}"
    return Card(
        f"Test image {row.index:,}: label {row.label}",
        [
            _picture(key, one.image, f"Test image {row.index}, of class {row.label}", "the image"),
            _picture(
                f"{key}-changed",
                one.changed,
                f"The same image moved towards the mean of class {one.towards}; it is proved to keep label {row.label}",
                f"moved towards a {one.towards}, label {row.label}",
            ),
        ],
        [(f"{norm} distance", decimal(one.distance)), (f"certified {norm} radius", decimal(row.radius, True))],
    )


def _attacked(record: Record, one: Attacked, key: str) -> Card:
    norm, row = NORMS[record.norm], one.row
    facts = [("gap (logits)", f"{row.margin:.4g}")]
    facts.append((f"{record.word} {norm} radius", decimal(row.radius, record.proved)))
    facts.append((f"{norm} distance found here", finite(one.distance)))
    for label, tried in numbers.attacks(record.run.attack_rows):
        mine = [r for r in record.run.attack_rows if (r.attack, r.index) == (label, row.index)]
        if mine and not tried:
            facts.append((label, finite(mine[0].distance)))
        elif mine:
            beaten = [r.eps for r in mine if r.eps is not None and numbers.beaten(r, r.eps)]
            facts.append((label, f"beaten at {min(beaten):g}" if beaten else f"withstood {max(tried):g}"))
    facts += [("audit", finite(r.distance)) for r in record.audit if r.index == row.index]
    shown = [_picture(key, one.image, f"Test image {row.index}, of class {row.label}", "the image")]
    if one.changed is not None and math.isfinite(one.distance):
        alt = f"The same image changed by an attack; the network answers {one.answer}"
        shown.append(_picture(f"{key}-attacked", one.changed, alt, f"attacked: label {one.answer}"))
    return Card(f"Test image {row.index:,}: label {row.label}", shown, facts)


def _picture(key: str, image: object, alt: str, caption: str) -> Picture:
    from lipcert.report.pictures import png

    return Picture(key, png(image), alt, caption)  # type: ignore[arg-type]
