"""`lipcert certify`: a radius for every test image of a trained network."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lipcert.analyses import deciles, hybrid, stability, tightness
from lipcert.evaluation.certify import certificate_label, certify
from lipcert.evaluation.load import load_run
from lipcert.evaluation.record import show, write_record
from lipcert.training.devices import check_device

SHOWS = {
    "tightness": tightness.show,
    "stability": stability.show,
    "hybrid": hybrid.show,
    "deciles": deciles.show,
}


def run(
    *,
    run: str,
    certificate: dict | None,
    split: Literal["test", "val", "train"],
    analysis: Literal["tightness", "stability", "hybrid", "deciles"] | None,
    other: str | None,
    threshold: float | None,
    attack: dict | None,
    eps: list[float] | None,
    draws: int,
    noise: float,
    gradients: Literal["image", "batch"],
    data_dir: str | None,
    device: str,
    batch_size: int,
    trust: bool,
    seed: int,
    output_dir: str | None,
) -> None:
    """The command: adds what a certificate proves to the run of directory `run`, and rewrites its record.

    `other`, `threshold`, `attack`, `eps`, `draws`, `noise` and `gradients` are the analysis's.
    """
    check_device(device)
    if certificate is not None and "_target_" not in certificate:
        raise ValueError("`certificate._target_` must be given: it says what `certificate` is")
    if analysis and split != "test":
        raise ValueError(f"`analysis`={analysis} is of the test images: leave out split={split}")
    for key, value in (("other", other), ("threshold", threshold), ("eps", eps)):
        if value is not None and analysis != "hybrid":
            raise ValueError(f"`{key}`={value} is of a hybrid classifier: add analysis=hybrid, or leave it out")
    loaded = load_run(Path(run), data_dir=data_dir, trust=trust, splits=(split,))
    chosen = certificate or loaded.config["certificate"]
    settings = tightness.Settings(attack, draws, noise, seed, device, batch_size, gradients)
    if analysis == "tightness":
        settings.check(loaded.network.norm, chosen)
    pair = hybrid.Settings(other, threshold, attack if attack and "_target_" in attack else None, device)
    if analysis == "hybrid":
        pair.check(loaded, chosen)
    with loaded.directory.writing("certify"):
        bound = certify(loaded, certificate=certificate, split=split, device=device, batch_size=batch_size)
        write_record(loaded.directory)
        if analysis == "stability":
            stability.analyse(loaded, device=device, batch_size=batch_size)
        if analysis == "tightness":
            tightness.analyse(loaded, bound, settings)
        if analysis == "hybrid":
            hybrid.analyse(loaded, bound, certificate_label(chosen), pair)
        if analysis == "deciles":
            deciles.analyse(loaded)
    show(loaded.directory, layers=True)
    if analysis:
        SHOWS[analysis](loaded.directory)
