"""How steep a network is at its test images, and the two products of its weights that this is held against.

TULIP's tables 4 and 6, the angle of its section 2, and its Lemma 3.3 (Finlay, Oberman & Abbasi, 2018).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

from rich.console import Console

from lipcert.analyses.stability.angles import angle_statistics, cosines
from lipcert.analyses.stability.lemma import in_words, lemma
from lipcert.analyses.stability.linearised import linearised_norm
from lipcert.analyses.stability.table import stability_table
from lipcert.contracts import StabilityRow
from lipcert.evaluation.certify import steepest_images
from lipcert.evaluation.load import LoadedRun
from lipcert.evaluation.record import write_record
from lipcert.frozen.exact import exact_arithmetic
from lipcert.frozen.gradients import steepness
from lipcert.frozen.lipschitz import Walk
from lipcert.runs.directory import RunDirectory
from lipcert.runs.layout import STABILITY
from lipcert.runs.numbers import maxima

CONTENT = "stability.json"


def analyse(run: LoadedRun, *, device: str, batch_size: int) -> None:
    """Writes stability.csv where no certificate has, and stability.json: its maxima, the angles between the loss's
    gradient and its sign, the products of weights, and what becomes of TULIP's Lemma 3.3.

    run         whose lock is held
    device      where gradients are computed
    batch_size  how many images at once, at most
    """
    network, dataset, directory = run.network, run.dataset, run.directory
    with exact_arithmetic():
        products = {
            "product_of_norms": number_or_reason(lambda: Walk(network, network.norm).constant(len(network.operations))),
            "norm_of_product": number_or_reason(lambda: linearised_norm(network)),
        }
        rows = directory.read_rows(STABILITY, StabilityRow)
        if not any(row.split == "test" for row in rows):
            observe = partial(steepness, network.on(device))
            seen = steepest_images(observe, dataset.test, dataset.num_classes, device, batch_size)
            directory.write_rows(STABILITY, StabilityRow, itertools.chain(rows, seen))
        angles = angle_statistics(cosines(network, dataset.test, dataset.num_classes, device, batch_size))
    rows = [row for row in directory.read_rows(STABILITY, StabilityRow) if row.split == "test"]
    said = lemma([row.jacobian for row in rows], products["norm_of_product"])
    directory.write_json(CONTENT, {"images": len(rows), **maxima(rows), **angles, **products, **said})
    write_record(directory)


def number_or_reason(number: Callable[[], float]) -> float | str:
    """The number, or the message that says why there is none."""
    try:
        return number()
    except ValueError as error:
        return str(error)


def show(directory: RunDirectory) -> None:
    """stability.json on the terminal."""
    content = directory.read_json(CONTENT)
    console = Console(width=max(120, Console().width))
    console.print(stability_table(content))
    if said := in_words(content):
        console.print(said, markup=False, highlight=False)
