"""What a sweep over hyperparameters looks for: an accuracy on the validation images of each run."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lipcert.configuration import build
from lipcert.contracts import Kind
from lipcert.evaluation.certify import certify
from lipcert.evaluation.load import load_run
from lipcert.evaluation.record import write_record
from lipcert.runs import numbers
from lipcert.runs.results import read_results

FORM = re.compile(r"(clean|" + "|".join(numbers.WORDS.values()) + r")(?:@([0-9.e+-]+))?")


NO_IMAGES = "`objective` is measured on validation images, of which there are none: give dataset.val_size"


def check_objective(asked: str | list[str] | None, dataset: Mapping[str, Any], certificate: dict[str, Any]) -> None:
    """ValueError for an objective that is not of the form clean, certified or certified@EPS, and where the data set or
    the certificate, given by their configurations, have no validation images or make another kind of claim."""
    kind = build(certificate).kind
    for one in _each(asked):
        _word_and_radius(one, kind)
    if not dataset.get("val_size", 1):
        raise ValueError(NO_IMAGES)


def measure(directory: Path, asked: str | list[str] | None, device: str = "cpu") -> float | list[float]:
    """The objective of a finished run, which certifies its validation images where they are not yet.

    directory  the run's
    asked      `clean`; `certified` (of other kinds of claim `statistical` or `nominal`), the mean over the run's radii;
               `certified@0.3`, at one radius; None: the kind that the run's certificate claims. A list asks for several

    Returns a fraction of 1, or a list of them. Raises ValueError where there are no validation images, or where the
    certificate makes another kind of claim.
    """
    run = load_run(directory, trust=True, splits=("val",))
    if not len(run.dataset.val):
        raise ValueError(NO_IMAGES)
    with run.directory.writing("certify"):
        if not read_results(run.directory, "val").certificates:
            certify(run, split="val", device=device)
            write_record(run.directory)
    results = read_results(run.directory, "val")
    kind = next(iter(results.kinds()))
    rows, eps = results.best(kind), run.config["eps"]
    found = []
    for one in _each(asked):
        word, at = _word_and_radius(one, kind)
        if word == "clean":
            found.append(numbers.clean_accuracy(rows))
        else:
            found.append(statistics.fmean(numbers.accuracy_within(rows, e) for e in ([at] if at is not None else eps)))
    return found if isinstance(asked, list) else found[0]


def _each(asked: str | list[str] | None) -> list[str] | list[None]:
    return asked if isinstance(asked, list) else [asked]  # type: ignore[return-value]


def _word_and_radius(one: str | None, kind: Kind) -> tuple[str, float | None]:
    """The word of one objective and its radius; ValueError where it is not of a form, or of another kind of claim."""
    word = numbers.WORDS[kind]
    found = FORM.fullmatch(word if one is None else one)
    try:
        at = float(found[2]) if found and found[2] else None
    except ValueError:
        found = None
    if not found or (found[1] == "clean" and found[2]):
        raise ValueError(f"`objective` must be clean, {word} or {word}@EPS, got {one}")
    if found[1] not in ("clean", word):
        raise ValueError(f"`objective`={one}: this run's certificate is of kind {kind}, so ask for clean or {word}")
    return found[1], at
