"""The sections of one run on a page: what was found of it, in blocks."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from lipcert.contracts import Kind, Norm
from lipcert.report import figures, meanings
from lipcert.report.blocks import Code, Drawing, Grid, Piece, Row, Section, Text
from lipcert.report.deciles import deciles
from lipcert.report.everything import everything
from lipcert.report.record import Record, reach, standing, together
from lipcert.reporting.plotting import NORMS
from lipcert.reporting.rounding import decimal, factor, percent
from lipcert.runs import numbers

Draw = Callable[[str, Any, str, str], Drawing]  # (key, figure, alt, caption): draws, and keeps the files
NO_LAYERS = "The certificate of this run reports no bound layer by layer."


def accuracy(record: Record, draw: Draw) -> list[Piece]:
    """Certified and attacked accuracy against the radius: a figure for each norm, and what it says at the radii."""
    blocks: list[Piece] = [Text(meanings.KINDS[record.run.kind], "" if record.proved else "note")]
    attacks = {numbers.attack_norm(label) for label, _ in numbers.attacks(record.run.attack_rows)}
    norms = dict.fromkeys([*(rows[0].norm for rows in record.claims.values()), *sorted(map(str, attacks))])
    for norm in norms:
        reached = {label: found for label, found in reach(record, Norm(norm)).items() if found}
        blocks.append(_accuracy_figure(record, draw, norm, reached))
        blocks += _at_radii(record, norm, reached)
    if not any(reach(record, Norm(norm)) for norm in norms):
        blocks.append(
            Text("No attack and no audit of this run is recorded: nothing is known of the robust accuracy from above.")
        )
    return blocks


def _accuracy_figure(record: Record, draw: Draw, norm: str, reached: Mapping[str, Mapping[int, float]]) -> Drawing:
    said, all_of_them = [], together(reached)
    eps = record.middle if norm == record.norm else None
    if eps is not None:
        at = f"at {NORMS[Norm(norm)]} radius {eps:g}"
        here = percent(numbers.accuracy_within(record.rows, eps), record.proved)
        said.append(f"{record.word} accuracy {here} % of {len(record.rows):,} images {at}")
        if all_of_them:
            left = percent(standing(all_of_them, eps))
            said.append(f"attacks leave {left} % of the {len(all_of_them):,} images that were attacked")
    alt = f"Accuracy against the {NORMS[Norm(norm)]} radius. {'; '.join(said).capitalize()}."
    caption = "Solid: proved, a lower bound. " if Kind.PROOF in record.claims else "Nothing is proved. "
    if set(record.claims) - {Kind.PROOF}:
        caption += "Dotted: estimated or statistical, no proof. "
    if reached:
        caption += "Dashed: what an attack leaves, an upper bound of the robust accuracy of its images. "
        if Kind.PROOF in record.claims and norm == record.norm:
            caption += "Shaded, of the attacked images: neither proved nor refuted."
    return draw(f"accuracy-{norm}", figures.accuracy_figure(record, norm), alt, caption)


def _at_radii(record: Record, norm: str, reached: Mapping[str, Mapping[int, float]]) -> list[Piece]:
    """The bounds of the robust accuracy, from both sides, at the radii that the run reports."""
    if norm != record.norm or not record.eps:
        return []
    left, proof = together(reached), record.proved
    same = [row for row in record.rows if row.index in left]
    columns = [f"{record.word} (%)"]
    columns += [f"{record.word}, attacked images (%)", "attacks leave (%)"] if left else []
    rows = []
    for eps in record.eps:
        values = [percent(numbers.accuracy_within(record.rows, eps), proof)]
        if left:
            values += [percent(numbers.accuracy_within(same, eps), proof), percent(standing(left, eps))]
        bounds = "The robust accuracy of the attacked images lies between the last two numbers." if proof else ""
        rows.append(Row(f"{NORMS[Norm(norm)]} {eps:g}", values, bounds or "What attacks leave is an upper bound."))
    count = f", {len(left):,} of them attacked" if left else ""
    return [Grid(f"Of {len(record.rows):,} test images{count}", columns, rows, corner="Radius", beside=True)]


def by_gap(record: Record, draw: Draw) -> list[Piece]:
    """Accuracy and robustness by decile of the gap."""
    eps = sorted({e for e in (record.middle, *record.eps[:1]) if e is not None})
    found = deciles(record.rows, together({k: v for k, v in reach(record, record.norm).items() if v}), eps)
    if not found:
        return [Text("The margins of this run are no numbers: its images cannot be sorted by their gaps.")]
    norm, word = NORMS[record.norm], record.word
    columns = ["gap (logits)", "clean (%)", *(f"{word} at {e:g} (%)" for e in eps), f"median {word} radius"]
    attacked = any(part.attacked for part in found)
    columns += [f"attacked at {e:g} (%)" for e in eps] if attacked else []
    rows = []
    for number, part in enumerate(found, 1):
        values = [f"{part.smallest:.3g} – {part.largest:.3g}", percent(part.accuracy)]
        values += [percent(part.within[e], record.proved) for e in eps]
        values.append(decimal(part.median_radius, record.proved))
        if attacked:
            values += [f"{percent(part.left[e])} of {part.attacked:,}" if part.left else "–" for e in eps]
        rows.append(
            Row(f"decile {number}", values, f"{part.images:,} test images, {part.attacked:,} of them attacked.")
        )
    low, high = found[0], found[-1]
    alt = f"Clean accuracy rises from {percent(low.accuracy)} % in decile 1 to {percent(high.accuracy)} % in the last."
    if eps:
        at = eps[-1]
        alt += f" {word.capitalize()} accuracy at {at:g}: {percent(low.within[at], record.proved)} % to "
        alt += f"{percent(high.within[at], record.proved)} %."
    drawn = figures.decile_figure(found, record.middle, word, record.run.kind, str(record.norm))
    caption = f"The test images in {len(found)} parts, from the smallest gaps to the largest."
    return [
        Text(f"The gap of an image is {lower(meanings.GLOSSARY['gap of an image'])}"),
        draw("deciles", drawn, alt, caption),
        Grid(f"Accuracy and robustness by decile of the gap; radii in {norm}", columns, rows, corner="Part"),
    ]


def layers(record: Record, draw: Draw) -> list[Piece]:
    """The bound layer by layer."""
    known = [row for row in record.layers if (row.get("lipschitz") or 0.0) > 0]
    if not known:
        return [Text(NO_LAYERS)]
    what = "proved" if record.proved else "not proved"
    last = float(known[-1]["lipschitz"])
    dearest = max(known, key=lambda row: float(row.get("cost") or 0.0))
    alt = f"Lipschitz bound up to each of {len(known)} layers, ending at {last:.6g}."
    if dearest.get("cost"):
        alt += (
            f" {dearest['layer']} costs most: the bound would be smaller by a factor of {float(dearest['cost']):.4g}."
        )
    more = f" The {figures.MOST_LAYERS} that change it most." if len(known) > figures.MOST_LAYERS else ""
    caption = (
        f"The black mark is the bound ({what}) of all outputs of a layer, the bar leads there from the layer before. "
        f"Inside a branch it is that of the branch alone.{more}"
    )
    rows = [
        Row(
            str(row["layer"]),
            [
                *(f"{float(row[key]):.6g}" if row.get(key) is not None else "–" for key in ("norm", "lipschitz")),
                f"× {float(row['cost']):.4g}" if row.get("cost") is not None else "–",
            ],
        )
        for row in known
    ]
    columns = ["norm", "bound so far", "cost to the bound"]
    return [
        draw("layers", figures.layer_figure(known), alt, caption),
        Grid("The same as a table", columns, rows, folded=True, corner="Layer", beside=True),
    ]


def tightness(record: Record, draw: Draw) -> Iterator[Piece]:
    """What the tightness analysis found."""
    ratios = record.tightness_facts.get("ratios")
    known = ratios if isinstance(ratios, dict) else {}
    median = known.get("attack_distance/certified_radius")
    alt = "Ratios of distances and estimates to certified radii, as the fraction of images with at most this ratio."
    if isinstance(median, int | float):
        alt += f" Half of the images were beaten within {median:.3g} times their certified radius."
    caption = (
        f"{len(record.tightness):,} images; the attack is {record.tightness_facts['attack']}. An estimate is no bound."
    )
    yield draw("tightness", figures.ratio_figure(record), alt, caption)


def stability(record: Record, draw: Draw) -> Iterator[Piece]:
    """How steep the network is at the test images."""
    largest = numbers.maxima(record.run.stability_rows)
    said = ", ".join(f"{name} {decimal(largest[key])}" for key, (_, name) in numbers.MAXIMA.items())
    caption = "Gradients at the images themselves: they bound the Lipschitz constant from below, and prove nothing."
    yield draw("stability", figures.stability_figure(record.run.stability_rows), f"Steepness: {said}.", caption)
    meaning = "The largest among the test images: the Lipschitz constant is at least that. It is no bound from above."
    rows = [Row(name, [decimal(largest[key])], meaning) for key, (_, name) in numbers.MAXIMA.items()]
    yield Grid("The steepest test images", ["l2 norm"], rows, beside=True)


def audit(record: Record, draw: Draw) -> Iterator[Piece]:
    """What the audit found."""
    from lipcert.analyses.audit.figures import audit_figure
    from lipcert.report.svg import narrow

    facts = record.audit_facts
    smallest = factor(facts["smallest_noticed"])
    rows = [
        Row("radii attacked", [f"{facts['images']:,}"], "Test images whose certified radius was attacked."),
        Row("attempts", [f"{facts['pairs']:,}"], "Pairs of an image and an attack at one factor in one precision."),
        Row("certificates broken", [f"{facts['broken']:,}"], "Images with another label within a radius: must be 0."),
        Row(
            "smallest distance / radius",
            [smallest],
            "If all radii were too large by this factor, the audit would have noticed it. A smaller error could hide.",
        ),
        Row("… in float32", [factor(facts["smallest_noticed_float32"])], "The same of the radii in float32."),
        Row("median distance / radius", [factor(facts["median_noticed"])], "Half of the images are below this factor."),
    ]
    alt = (
        f"Radii against the nearest distances found, and their ratios: {facts['broken']:,} of {facts['images']:,} "
        f"certificates broken, the smallest ratio is {smallest}."
    )
    caption = "Above: a point below the line would break its certificate. Below: how large an error would be noticed."
    yield draw("audit", narrow(audit_figure(record.audit, "")), alt, caption)
    yield Grid("What the audit found", ["value"], rows, beside=True)


def errors(record: Record, draw: Draw) -> Iterator[Piece]:
    """Error curves of the attacks that look for the smallest distance."""
    from lipcert.report.svg import narrow
    from lipcert.reporting.error_curves import errors_figure

    run = record.run
    if figure := errors_figure([[run]], [record.name]):
        attacks = ", ".join(label for label, tried in numbers.attacks(run.attack_rows) if not tried)
        caption = "The fraction of images with another label within eps, as far as the attack found one."
        yield draw("errors", narrow(figure), f"Error curves of {attacks}.", caption)
        rows = [
            Row(label, [finite(numbers.median_distance(run.attack_rows, label))], meaning)
            for label, tried in numbers.attacks(run.attack_rows)
            for meaning in ["Half of the attacked images get another label within this distance."]
            if not tried
        ]
        yield Grid("Smallest distances found", ["median distance"], rows, corner="Attack", beside=True)


def configuration(record: Record) -> list[Piece]:
    """All numbers of the record, and the resolved configuration."""
    text = yaml.safe_dump(record.run.config, sort_keys=False, allow_unicode=True)
    return [everything(record.run.summary), Code("Show the configuration", text, folded=True)]


def commands(record: Record) -> list[Piece]:
    """What made the run, as far as it was recorded, and what goes on from it."""
    where = shlex.quote(str(record.run.path))
    chosen = record.run.config.get("chosen") or {}
    words = [shlex.quote(f"{key}={_unquoted(str(value))}") for key, value in chosen.items()]
    train = " \\\n  ".join(["lipcert train", *words])
    more = [f"lipcert certify run={where}", f"lipcert attack run={where} attack=pgd_{record.norm}"]
    more += [f"lipcert audit run={where}", f"lipcert export run={where}"] if record.proved else []
    more.append(f"lipcert report {where}")
    return [Code("The run was made by:", train), Code("Where it lies, one can go on with:", "\n".join(more))]


def _unquoted(value: str) -> str:
    """A path as it was written: `lipcert` quotes for Hydra what has a = in it."""
    inner = value[1:-1]
    return inner if value == f"'{inner}'" and "/" in inner and "'" not in inner else value


def of_run(record: Record, draw: Draw, level: int, prefix: str, images: Sequence[Piece]) -> list[Section]:
    """All sections of a run. `images` are the blocks of its pictures, `prefix` begins the ids."""
    parts: list[tuple[str, str, Sequence[Piece]]] = [
        ("accuracy", "Accuracy against the radius", accuracy(record, draw)),
        ("gap", "Accuracy and robustness by gap", by_gap(record, draw)),
        ("images", "Images", images),
        ("layers", "The bound, layer by layer", layers(record, draw)),
    ]
    if record.tightness:
        parts.append(("tightness", "Tightness", list(tightness(record, draw))))
    if record.run.stability_rows:
        parts.append(("stability", "Stability", list(stability(record, draw))))
    if curves := list(errors(record, draw)):
        parts.append(("errors", "Error curves", curves))
    if record.audit:
        parts.append(("audit", "Audit", list(audit(record, draw))))
    parts += [
        ("configuration", "Record and configuration", configuration(record)),
        ("commands", "Commands", commands(record)),
    ]
    return [Section(f"{prefix}{id}", heading, blocks, level) for id, heading, blocks in parts]


def lower(text: str) -> str:
    """A sentence that goes on where another one began."""
    return text[:1].lower() + text[1:]


def finite(value: float) -> str:
    """A distance with four decimals, "none found" where there is none."""
    return decimal(value) if math.isfinite(value) else "none found"
