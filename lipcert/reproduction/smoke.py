"""`scale=smoke`: every row of a table in seconds, on images of noise, to see that it runs; its numbers mean nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lipcert.reporting.published import Row

SHAPES = {  # (classes, channels, side) of the images for which noise stands
    "mnist": (10, 1, 28),
    "fashion_mnist": (10, 1, 28),
    "cifar10": (10, 3, 32),
    "cifar100": (100, 3, 32),
    "svhn": (10, 3, 32),
    "tiny_imagenet": (200, 3, 64),
}
DEEP = ("channels=[2,2]", "shared=2", "shared_width=8", "branch=2", "branch_width=4")
NARROW = {  # what makes a model small
    "allcnn": ["model.width=4"],
    "convnet": ["model.channels=[4,4]", "model.hidden=8"],
    "ibp_convnet": ["model.channels=[2,2,2]", "model.hidden=8"],
    "l2nnn": ["model.channels=[2,2]", "model.width=8"],
    "l2nnn_cifar": ["model.channels=[2,2,2]", "model.width=8", "model.depth=2"],
    "l2nnn_deep": [f"model.{key}" for key in DEEP],
    "l2nnn_resnet": ["model.channels=[2,2,2]", "model.blocks=[1,1,1]"],
    "linf_dist": ["model.width=8"],
    "linf_dist_conv": ["model.channels=[2,2,2,2,2]", "model.width=8", "model.hidden=8"],
    "linf_dist_mlp": ["model.width=8", "model.hidden=8"],
    "lmt_convnet": ["model.channels=[2,2]", "model.hidden=[8]"],
    "lmt_resnet": ["model.width=1", "model.depth=10"],
    "ordinary_deep": [f"model.{key}" for key in DEEP],
    "parseval_resnet": [],
    "resnet34": ["model.width=4", "model.depth=10"],
    "tulip_resnext": ["model.width=4", "model.depth=10"],
}
FEW = {"images": 4, "steps": 2, "binary_search_steps": 1, "restarts": 1, "tries": 2, "bisections": 2, "directions": 2}
ONCE = ["schedule.epochs=1", "schedule.batch_size=20", "dataset.val_size=0.2"]
TRAIN, TEST = 40, 12  # images


def overrides(row: Row, folder: Path) -> list[str]:
    """What is added to the first command of a row, so that it takes seconds; the images are in `folder`."""
    arguments = row.arguments()
    images = [*_of_others(arguments), "dataset=npz", f"dataset.path={noise(chosen('dataset', arguments), folder)}"]
    if row.command != "train":
        return images
    small = list(NARROW.get(chosen("model", arguments), []))
    adversary = chosen("attack@loss.adversary", arguments)
    return [*images, *ONCE, *small, *_few("loss.adversary", adversary), *few(chosen("attack", arguments))]


def _of_others(arguments: Sequence[str]) -> list[str]:
    """What takes away the settings of a recipe's data set that noise has not."""
    known = {*_yaml("dataset/_base"), *_yaml("dataset/npz")}
    own = {key for recipe in _recipes(arguments) for key in recipe.get("dataset", {})}
    return [f"~dataset.{key}" for key in sorted(own - known)]


def few(attack: str) -> list[str]:
    """What makes an attack of conf/attack short."""
    return ["attack.images=4", *_few("attack", attack)] if attack not in ("", "none") else []


def short(command: str, way: Sequence[str]) -> list[str]:
    """What is added to `lipcert attack` or `lipcert certify`, with those arguments."""
    if command == "attack":
        return few(chosen("attack", way))
    return ["draws=2", "attack.images=4"] if "analysis=tightness" in way else []


def _few(key: str, attack: str) -> list[str]:
    known = set(_keys(attack)) - {"images"} if attack else set()
    return [f"{key}.{name}={number}" for name, number in FEW.items() if name in known]


def chosen(group: str, arguments: Sequence[str]) -> str:
    """The option of a configuration group that the arguments of a command choose; "" where it is that of the model."""
    found = ""
    for name, option in _choices(arguments):
        found = option if name == group else found
    return found


def _choices(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    for recipe in _recipes(arguments):
        for entry in recipe.get("defaults", []):
            for key, option in entry.items() if isinstance(entry, dict) else ():
                yield key.removeprefix("override ").removeprefix("/"), option
    yield from (argument.partition("=")[::2] for argument in arguments)


def _recipes(arguments: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The content of the chosen recipes, each after those that it stands on."""
    given = dict(argument.partition("=")[::2] for argument in arguments)
    for name in filter(None, given.get("experiment", "").strip("[]").split(",")):
        yield from _with_bases(name)


def _with_bases(name: str) -> Iterator[dict[str, Any]]:
    content = _yaml(f"experiment/{name}")
    for entry in content.get("defaults", []):
        if isinstance(entry, str) and entry.startswith("/experiment/"):
            yield from _with_bases(entry.removeprefix("/experiment/"))
    yield content


def _keys(attack: str) -> Iterator[str]:
    content = _yaml(f"attack/{attack}")
    for entry in content.pop("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            yield from _keys(entry)
    yield from content


@cache
def _text(name: str) -> str:
    return (Path(import_module("lipcert.conf").__path__[0]) / f"{name}.yaml").read_text(encoding="utf-8")


def _yaml(name: str) -> dict[str, Any]:
    return yaml.safe_load(_text(name)) or {}


def noise(dataset: str, folder: Path) -> Path:
    """An archive of images of noise, as large as those of a data set; it is written where it is not there."""
    classes, channels, side = SHAPES[dataset]
    path = folder / f"noise-{classes}-{channels}-{side}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(0)
        arrays: dict[str, Any] = {}
        for part, count in (("train", max(TRAIN, 2 * classes)), ("test", TEST)):
            arrays[f"x_{part}"] = random.integers(0, 256, (count, side, side, channels), dtype=np.uint8)
            arrays[f"y_{part}"] = np.arange(count) % classes
        np.savez(path, **arrays)
    return path
