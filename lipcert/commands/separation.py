"""`lipcert separation`: how far apart the labels of a data set lie, and so the Lipschitz constant of its labels."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from rich.console import Console

from lipcert.analyses.separation.distances import separation
from lipcert.analyses.separation.figures import pair_figure, separation_figure
from lipcert.analyses.separation.rows import ROWS, SeparationRow, separation_table
from lipcert.configuration import build
from lipcert.files import as_json, write_atomic
from lipcert.frozen.exact import exact_arithmetic
from lipcert.reporting.plotting import drawn
from lipcert.runs.naming import clean, free_directory
from lipcert.runs.rows import format_rows, header
from lipcert.training.devices import check_device

CONTENT, FIGURE, PICTURE = "separation.json", "separation", "separation_picture"  # the last two .png and .svg


def run(
    *, dataset: dict, device: str, batch_size: int, seed: int, data_dir: str | None, output_dir: str | None
) -> None:
    """The command: compares the training images of `dataset` and writes one row for each, the numbers and two pictures.

    Indices are those of the training set as it is loaded."""
    check_device(device)
    directory = Path(output_dir or "outputs/separation")
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"`output_dir`: {directory} is a file")
    data = build(dataset)
    images, labels = data.train.pixels(), data.train.labels
    started = time.perf_counter()
    with exact_arithmetic():
        found = separation(images, labels, batch_size=batch_size, device=device)
    seconds = time.perf_counter() - started

    def named(indices: list[int]) -> dict[str, list[int]]:
        return {"indices": indices, "labels": labels[indices].tolist()}

    columns = (labels.tolist(), found.nearest.tolist(), found.distances.tolist())
    rows = [SeparationRow(index, *values) for index, values in enumerate(zip(*columns, strict=True))]
    content = {
        "name": data.name,
        "dataset": dataset,
        "images": len(rows),
        "labels": len(labels.unique()),
        "norm": "l2",
        "lipschitz": found.lipschitz,
        "distance": found.distance,
        "squared_distance_of_bytes": found.least,
        "closest": named(list(found.pair)),
        "median_distance": statistics.median(row.distance for row in rows),
        "duplicates": [named(group) for group in found.duplicates],
        "device": device,
        "seconds": seconds,
    }
    pair = [image.double().div(255).numpy() for image in images[list(found.pair)]]
    try:
        if output_dir is None:
            directory = free_directory(directory, clean(data.name))
        directory.mkdir(parents=True, exist_ok=True)
        write_atomic(directory / ROWS, header(SeparationRow) + format_rows(SeparationRow, rows))
        figure = separation_figure(rows, found.distance, f"{data.name}: how near another label is")
        pictures = drawn(figure, FIGURE) | drawn(pair_figure(pair, content), PICTURE)
        for name, picture in pictures.items():
            write_atomic(directory / name, picture)
        write_atomic(directory / CONTENT, as_json(content))
    except OSError as error:
        raise ValueError(f"`output_dir`: {directory} cannot be written ({error.strerror or error})") from None
    console = Console(width=max(120, Console().width))
    console.print(separation_table(content))
    console.print(f"written: {directory}", soft_wrap=True, highlight=False)
