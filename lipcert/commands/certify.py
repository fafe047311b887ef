"""`lipcert certify`: a radius for every test image of a trained network."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lipcert.analyses import stability, tightness
from lipcert.evaluation.certify import certify
from lipcert.evaluation.load import load_run
from lipcert.evaluation.record import show, write_record
from lipcert.training.devices import check_device


def run(
    *,
    run: str,
    certificate: dict | None,
    split: Literal["test", "val", "train"],
    analysis: Literal["tightness", "stability"] | None,
    attack: dict | None,
    draws: int,
    noise: float,
    data_dir: str | None,
    device: str,
    batch_size: int,
    trust: bool,
    seed: int,
    output_dir: str | None,
) -> None:
    """The command: adds what a certificate proves to the run of directory `run`, and rewrites its record.

    `attack`, `draws` and `noise` are the analysis's.
    """
    check_device(device)
    if analysis and split != "test":
        raise ValueError(f"`analysis`={analysis} is of the test images: leave out split={split}")
    directory = Path(run)
    loaded = load_run(directory, data_dir=data_dir, trust=trust, splits=(split,))
    if analysis == "tightness":
        settings = tightness.Settings(attack, draws, noise, seed, device, batch_size)
        settings.check(loaded.network.norm, certificate or loaded.config["certificate"])
    with loaded.directory.writing("certify"):
        bound = certify(loaded, certificate=certificate, split=split, device=device, batch_size=batch_size)
        write_record(loaded.directory)
        if analysis == "stability":
            stability.analyse(loaded, device=device, batch_size=batch_size)
        if analysis == "tightness":
            tightness.analyse(loaded, bound, settings)
    show(loaded.directory, layers=True)
    if analysis:
        (tightness if analysis == "tightness" else stability).show(loaded.directory)
