"""What a sweep over hyperparameters looks for: an accuracy on the validation images of each run."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lipcert.evaluation.certify import certify
from lipcert.evaluation.load import load_run
from lipcert.evaluation.record import write_record
from lipcert.runs import numbers
from lipcert.runs.results import read_results

FORM = re.compile(r"(clean|" + "|".join(numbers.WORDS.values()) + r")(?:@([0-9.e+-]+))?")


NO_IMAGES = "`objective` is measured on validation images, of which there are none: give dataset.val_size"


def check_objective(asked: str | list[str] | None, dataset: Mapping[str, Any]) -> None:
    """ValueError for an objective that is not of the form clean, certified or certified@EPS, and for a data set, given
    by its configuration, without validation images."""
    for one in _each(asked):
        _parts(one)
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
        word, at = _parts(one or numbers.WORDS[kind])
        if word == "clean":
            found.append(numbers.clean_accuracy(rows))
        elif word != numbers.WORDS[kind]:
            raise ValueError(
                f"`objective`={word}: this run's certificate is {kind}: ask for clean or {numbers.WORDS[kind]}"
            )
        else:
            found.append(statistics.fmean(numbers.accuracy_within(rows, e) for e in ([at] if at is not None else eps)))
    return found if isinstance(asked, list) else found[0]


def _each(asked: str | list[str] | None) -> list[str] | list[None]:
    return asked if isinstance(asked, list) else [asked]  # type: ignore[return-value]


def _parts(one: str | None) -> tuple[str | None, float | None]:
    """The word and the radius of one objective."""
    if one is None:
        return None, None
    found = FORM.fullmatch(one)
    try:
        at = float(found[2]) if found and found[2] else None
    except ValueError:
        found = None
    if not found or (found[1] == "clean" and found[2]):
        raise ValueError(f"`objective` must be clean, certified or certified@EPS, got {one}")
    return found[1], at
