"""`lipcert export`: a trained network with its proofs, as a folder that others can run and check."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.console import Console

from lipcert.evaluation.load import load_run
from lipcert.export.folder import export


def run(
    *,
    run: str,
    format: Literal["folder", "onnx", "torch"],
    images: int | None,
    data_dir: str | None,
    trust: bool,
    seed: int,
    output_dir: str | None,
) -> None:
    """The command: writes the folder of the run of directory `run`; `images` of the test images go into it."""
    if images is not None and images < 0:
        raise ValueError(f"`images` must be 0 or more, or null for all, got {images}")
    loaded = load_run(Path(run), data_dir=data_dir, trust=trust)
    place = export(loaded, Path(output_dir) if output_dir else None, format, images)
    Console().print(f"written: {place}", soft_wrap=True, highlight=False, markup=False)
