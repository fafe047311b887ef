"""An image within a proved radius that has another label: saved, shown, and judged again with the network alone."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lipcert.attacks.judge import definite
from lipcert.contracts import Kind, Norm
from lipcert.evaluation.load import read_network
from lipcert.files import write_atomic
from lipcert.frozen import Network
from lipcert.frozen.exact import exact_arithmetic
from lipcert.reporting.plotting import channels_last, drawn, picture
from lipcert.runs import counterexamples
from lipcert.runs.counterexamples import Counterexample
from lipcert.runs.directory import RunDirectory, is_run
from lipcert.runs.layout import COUNTEREXAMPLES
from lipcert.runs.results import read_results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COPIES = 64  # of an image in one batch: sums may be added in another order there


class Verdict(NamedTuple):
    """What the frozen network says of a counter-example.

    clean            the prediction for the clean image in float64
    predictions      {arithmetic: the prediction for the other image}; None where logits are not finite
    distance         the exact one, rounded up to float64
    broken           whether it lies within the radius and has another label in the arithmetic that is claimed of
    """

    clean: int | None
    predictions: dict[str, int | None]
    distance: float
    broken: bool


def exact_distance(norm: Norm, a: np.ndarray, b: np.ndarray) -> float:
    """The distance of two images of floats, computed in rational numbers and rounded up to float64."""
    gaps = [abs(Fraction(u) - Fraction(v)) for u, v in zip(a.ravel().tolist(), b.ravel().tolist(), strict=True)]
    if norm is not Norm.L2:
        return _up(max(gaps, default=Fraction(0)) if norm is Norm.LINF else sum(gaps, Fraction(0)))
    squared = sum((gap * gap for gap in gaps), Fraction(0))
    if not squared:
        return 0.0
    scale = 1 << 1200  # so that a whole number has more digits than any distance needs
    whole = math.ceil(squared * scale * scale)
    return _up(Fraction(math.isqrt(whole - 1) + 1, scale))


def _up(value: Fraction) -> float:
    near = float(value)
    return near if Fraction(near) >= value else float(np.nextafter(near, np.inf))


def judged(network: Network, found: Counterexample) -> Verdict:
    """The verdict of a network in float64 on a counter-example."""
    x, candidate = torch.from_numpy(found.clean)[None], torch.from_numpy(found.image)[None]
    predictions = {"float64": _prediction(network, candidate)}
    as_single = candidate.float()
    if as_single.double().equal(candidate):  # else it is no image of float32
        with contextlib.suppress(ValueError):  # where float32 can't hold a constant
            single = network.to(dtype=torch.float32)
            predictions["float32"] = _prediction(single, as_single)
            predictions[f"float32, {COPIES} at once"] = _prediction(single, as_single.expand(COPIES, -1, -1, -1))
    distance = exact_distance(found.norm, found.image, found.clean)
    arithmetic = "float32" if found.claim == "radius_float32" else "float64"
    other = [label != found.label for name, label in predictions.items() if name.startswith(arithmetic)]
    return Verdict(_prediction(network, x), predictions, distance, 0 < found.radius >= distance and any(other))


@torch.no_grad()
def _prediction(network: Network, images: Tensor) -> int | None:
    with exact_arithmetic():
        logits = network(images)
    label = logits[:1].argmax(1)
    return int(label) if bool(definite(logits[:1], label)) else None


def save(run: RunDirectory, values: Mapping[str, Any]) -> Path:
    """Writes a counter-example as .npz, by the names of its fields, and its picture as .png. Returns the first file."""
    path = counterexamples.save(run, values)
    picture_of = drawn(figure(counterexamples.read(path)), "counterexample")
    write_atomic(path.with_suffix(".png"), picture_of["counterexample.png"])
    return path


def figure(found: Counterexample) -> Figure:
    """The clean image, the one with another label, and their difference."""
    from matplotlib.figure import Figure

    result = Figure(figsize=(8.2, 3.6), dpi=150, layout="constrained")
    clean, other, change = result.subplots(1, 3)
    difference = channels_last(found.image - found.clean)
    picture(clean, channels_last(found.clean), f"test image {found.index:,}: label {found.label}")
    picture(other, channels_last(found.image), f"label {found.prediction}")
    picture(change, difference, "the difference", float(np.abs(difference).max()) or 1.0)
    result.suptitle(
        f"A broken certificate: {found.norm} distance {found.distance:.6g}, within the "
        f"{found.claim.replace('_', ' in ')} {found.radius:.6g}",
        fontsize="medium",
    )
    return result


def disagreement(run: RunDirectory, found: Counterexample) -> str | None:
    """In what a counter-example claims more than the certificates of its run do; None where in nothing, or where these
    can't be read. Anybody can write a file: what it says of radius and label is nothing that the network knows."""
    with contextlib.suppress(ValueError):
        results = read_results(run)
        for rows in (results.certificates[label] for label in results.kinds().get(Kind.PROOF, [])):
            for row in rows:
                same = (row.index, row.norm, row.label) == (found.index, found.norm, found.label)
                if same and (getattr(row, found.claim) or 0.0) >= found.radius:
                    return None
        return (
            f"the certificates of {run} prove no such {found.claim} of test image {found.index} with label "
            f"{found.label} in {found.norm}: they were computed anew since, or the file is of something else"
        )
    return None


def check(file: Path, run: Path | None) -> tuple[Counterexample, Verdict, str | None]:
    """A saved counter-example, the verdict on it with nothing but the frozen network of its run, and `disagreement`.

    run  the run's directory; None: the one that the file lies in

    Raises ValueError, in one line, where there is no such file or run, or they do not fit each other.
    """
    if not file.is_file():
        raise ValueError(f"`check`: there is no file {file}")
    if run is None:
        folder = file.resolve().parent
        if folder.name != COUNTEREXAMPLES or not is_run(folder.parent):
            raise ValueError(f"`check`: {file} does not lie in the {COUNTEREXAMPLES} of a run; say run=PATH besides")
        run = folder.parent
    found = counterexamples.read(file)
    network = read_network(RunDirectory(run))
    if found.clean.shape != network.shape:
        raise ValueError(
            f"`check`: {file} has images of {found.clean.shape}, the network of {run} takes {network.shape}"
        )
    if not 0 <= found.label < network.classes:
        raise ValueError(f"`check`: {file} has a label that is none of the {network.classes} classes of {run}")
    return found, judged(network, found), disagreement(RunDirectory(run), found)
