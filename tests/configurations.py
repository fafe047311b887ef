"""Configurations as tests use them: composed as the command line composes them, and built small."""

import os
import subprocess
from functools import cache
from pathlib import Path

import lipcert.conf
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from lipcert.tasks.settings import build, check, plain

CONF = Path(lipcert.conf.__path__[0])
SCRIPTS = Path(__file__).parents[1] / "scripts"

NARROW = {"hidden": 8, "shared_width": 8, "branch_width": 4, "width": 4}  # so that deep networks build in no time
SHAPES = {
    "digits": (1, 8),
    "mnist": (1, 28),
    "fashion_mnist": (1, 28),
    "cifar10": (3, 32),
    "tiny_imagenet": (3, 64),
    "svhn": (3, 32),
}


def names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


def kind(node: dict) -> str:
    return node["_target_"].rpartition(".")[2]


@cache
def composed(*overrides: str) -> dict:
    """The whole configuration of `lipcert train`, as plain Python, checked against what it is meant for."""
    GlobalHydra.instance().clear()
    with initialize_config_module("lipcert.conf", version_base="1.3"):
        config = plain(compose("train", ["output_dir=nowhere", *overrides]))
    check(config)
    return config


def shape(config: dict) -> tuple[int, int, int]:
    channels, side = SHAPES[kind(config["dataset"])]
    return channels, config["dataset"]["crop"] or side, config["dataset"]["crop"] or side


def built(config: dict) -> tuple:
    """Model (a narrow one), loss, optimizer and schedule, the schedule applied from the first step to the last."""
    classes = 200 if kind(config["dataset"]) == "tiny_imagenet" else 10
    narrow = {key: width for key, width in NARROW.items() if isinstance(config["model"].get(key), int)}
    if "halving" in config["model"]:
        narrow["channels"] = [2 for _ in config["model"]["channels"]]
    model = build({**config["model"], **narrow}, input_shape=shape(config), num_classes=classes)
    loss = build(config["loss"], num_classes=classes)
    schedule = build(config["schedule"])
    parameters = [p for p in (*model.parameters(), *loss.parameters()) if p.requires_grad]
    optimizer = build(config["optimizer"])(parameters) if parameters else None
    for epoch in (0.0, float(schedule.epochs)):
        schedule.apply(epoch, model=model, loss=loss, groups=optimizer.param_groups if optimizer else [])
    return model, loss, optimizer, schedule


def flat(config: dict, prefix: str = "") -> dict:
    """Dotted keys to values that are no dictionaries."""
    found = {}
    for key, value in config.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def changes(old: dict, new: dict) -> dict:
    """What `new` says otherwise than `old`, or does not say (None), by dotted key."""
    before, after = flat(old), flat(new)
    return {key: after.get(key) for key in {**before, **after} if before.get(key, ...) != after.get(key, ...)}


def calls(script: str, folder: Path) -> list[tuple[str, dict[str, str], list[str]]]:
    """What a script of scripts/ asks of `lipcert`, which only writes it down: task, keys and other arguments."""
    stub, log = folder / "bin" / "lipcert", folder / "log"
    stub.parent.mkdir()
    stub.write_text('#!/bin/sh\nprintf "%s\\t" "$@" >> "$LOG"\necho >> "$LOG"\n')
    stub.chmod(0o755)
    environment = {**os.environ, "PATH": f"{stub.parent}:{os.environ['PATH']}", "LOG": str(log)}
    command = ["bash", str(SCRIPTS / script), "DATA", "OUT"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.strip().split("\t") for line in log.read_text().splitlines()]
    return [
        (task, dict(a.partition("=")[::2] for a in rest if "=" in a), [a for a in rest if "=" not in a])
        for task, *rest in lines
    ]
