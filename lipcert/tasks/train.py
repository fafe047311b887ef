"""`lipcert train`: data, training, a certificate an image, an attack an image, and the record of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from lipcert.tasks import attack as attacks
from lipcert.tasks import certify, fitting, record, store
from lipcert.tasks.settings import build, check, check_trusted


def run(*, dataset: dict, model: dict, loss: dict, optimizer: dict, schedule: dict, certificate: dict, attack: dict | None,
        trainer: dict, eps: list[float], seed: int, output_dir: str, data_dir: str, resume: str | None,
        trust: bool) -> None:
    """The command. With `resume`, all but `trust` comes from that run's own configuration."""
    if resume is not None:
        resume_run(Path(resume), trust)
        return
    config = {"seed": seed, "eps": eps, "dataset": dataset, "model": model, "loss": loss, "optimizer": optimizer,
              "schedule": schedule, "certificate": certificate, "attack": attack, "trainer": trainer}
    preflight(config)
    directory = Path(output_dir)
    store.create(directory, yaml.safe_load(yaml.safe_dump(config)))
    finish(directory, config, trust=True)


def preflight(config: dict[str, Any]) -> None:
    """Builds every part once before anything is written: what can't be built is an error that leaves no trace."""
    if any(not e >= 0 for e in config["eps"]):
        raise ValueError(f"`eps` must be at least 0, got {config['eps']}")
    settings = config["trainer"]
    fitting.check_devices(settings["accelerator"], settings["devices"], settings["num_nodes"])
    dataset = build(config["dataset"])
    network = build(config["model"], input_shape=dataset.input_shape, num_classes=dataset.num_classes)
    loss = build(config["loss"], num_classes=dataset.num_classes)
    schedule = build(config["schedule"])
    schedule.apply(0.0, model=network, loss=loss)
    if schedule.early_stopping and not len(dataset.val):
        raise ValueError("`schedule.early_stopping` needs a validation set: give `dataset.val_size`")
    build(config["certificate"])
    if config["attack"]:
        build(config["attack"])


def resume_run(directory: Path, trust: bool) -> None:
    """Goes on where the run was stopped; a finished run is left alone, and says so."""
    config = store.read_config(directory, "resume", trust)
    check(config)
    if store.read_summary(directory).get("finished"):
        print(f"{directory} is finished: nothing to resume")
        return
    preflight(config)
    if (directory / store.CHECKPOINT).exists():
        saved = store.load_checkpoint(directory / store.CHECKPOINT, trust)
        check_trusted(saved["config"], trust, str(directory / store.CHECKPOINT))
    finish(directory, config, trust)


def finish(directory: Path, config: dict[str, Any], trust: bool) -> None:
    """All stages from wherever the run is: each picks up what it finds in the directory."""
    Console(stderr=True).print(f"run: {directory}", soft_wrap=True, highlight=False)
    fitting.fit(directory, config)
    loaded, network, dataset = certify.load_run(directory, trust=trust)
    certify.certify(directory, loaded, network, dataset)
    if config["attack"]:
        attacks.attack_run(directory, loaded, dataset, config["attack"], trust=trust)
    record.write(directory)
    record.show(directory)
