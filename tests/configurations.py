"""Configurations as tests use them: composed as the command line composes them, and built small."""

from functools import cache
from pathlib import Path

import lipcert.conf
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from lipcert.configuration import build, check, plain

CONF = Path(lipcert.conf.__path__[0])

NARROW = {"hidden": 8, "shared_width": 8, "branch_width": 4, "width": 4}  # so that deep networks build in no time
CLASSES = {"tiny_imagenet": 200, "cifar100": 100}
SHAPES = {
    "digits": (1, 8),
    "mnist": (1, 28),
    "fashion_mnist": (1, 28),
    "cifar10": (3, 32),
    "cifar100": (3, 32),
    "tiny_imagenet": (3, 64),
    "svhn": (3, 32),
}


def names(folder: Path) -> list[str]:
    """The options of a group, or of a group's folder; parts of others (_name) are none."""
    return sorted(path.stem for path in folder.glob("*.yaml") if not path.stem.startswith("_"))


def recipes() -> list[str]:
    """All values of `experiment=` but those that are laid over another."""
    folder = CONF / "experiment"
    found = (f"{paper.name}/{name}" for paper in folder.iterdir() for name in names(paper))
    return sorted(set(found) - {"tulip/released"})


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
    classes = CLASSES.get(kind(config["dataset"]), 10)
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
