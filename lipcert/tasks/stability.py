"""How steep a network is at its test images: seen by a nominal certificate, or by `analysis=stability` for any network.

TULIP's tables 4 and 6 (Finlay, Oberman & Abbasi, 2018), and the two products of weights that they are held against.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from torch import Tensor

from lipcert.datasets import batches
from lipcert.datasets.split import Dataset, Split
from lipcert.frozen import Network
from lipcert.frozen.gradients import steepness
from lipcert.frozen.linearised import linearised_norm
from lipcert.frozen.lipschitz import Walk
from lipcert.reporting.record import write_json_atomic
from lipcert.reporting.rows import read_rows, write_rows
from lipcert.reporting.stability import StabilityRow, maxima, stability_table
from lipcert.tasks import record, store
from lipcert.tasks.arithmetic import exact, exact_arithmetic
from lipcert.tasks.gradients import at_once

CONTENT = "stability.json"


def look(
    observe: Callable[[Tensor, Tensor], Sequence[Tensor]], test: Split, classes: int, device: str, batch_size: int
) -> Iterator[StabilityRow]:
    """One row an image of `test`, in its order, of what `observe` sees of each in float64."""
    loader = batches(test, at_once(classes, test.input_shape, device, batch_size), device=device)
    console, index = Console(stderr=True), 0
    for x, y in track(loader, "gradients", len(loader), console=console, disable=not console.is_terminal):
        for values in zip(*(column.tolist() for column in observe(exact(x), y)), strict=True):
            yield StabilityRow(index, *values)
            index += 1


def analyse(directory: Path, network: Network, dataset: Dataset, *, device: str, batch_size: int) -> None:
    """Writes stability.csv where no certificate has, and stability.json: its maxima and the products of weights."""
    with exact_arithmetic():
        products = {
            "product_of_norms": told(lambda: Walk(network, network.norm).constant(len(network.operations))),
            "norm_of_product": told(lambda: linearised_norm(network)),
        }
        if not (directory / store.STABILITY).exists():
            seen = look(partial(steepness, network.on(device)), dataset.test, dataset.num_classes, device, batch_size)
            write_rows(directory / store.STABILITY, StabilityRow, seen)
    rows = read_rows(directory / store.STABILITY, StabilityRow)
    write_json_atomic(directory / CONTENT, {"images": len(rows), **maxima(rows), **products})
    record.write(directory)


def told(number: Callable[[], float]) -> float | str:
    """The number, or why there is none."""
    try:
        return number()
    except ValueError as error:
        return str(error)


def show(directory: Path) -> None:
    content: dict[str, Any] = json.loads((directory / CONTENT).read_text())
    Console(width=max(120, Console().width)).print(stability_table(content))
