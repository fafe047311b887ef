"""A run, loaded from its directory: its configuration, its frozen network and its data."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from lipcert.configuration import build, check, offline
from lipcert.datasets.files import ImageFiles
from lipcert.datasets.split import Dataset, Split
from lipcert.frozen import Network
from lipcert.frozen.file import TENSORS, TEXT, load
from lipcert.runs.config import read_config
from lipcert.runs.directory import RunDirectory
from lipcert.runs.layout import NETWORK


class LoadedRun(NamedTuple):
    """A run whose training has ended."""

    directory: RunDirectory
    config: dict[str, Any]
    network: Network
    dataset: Dataset


def load_run(
    directory: str | Path, *, data_dir: str | None = None, trust: bool = False, splits: tuple[str, ...] = ("test",)
) -> LoadedRun:
    """A run as it is certified and attacked. Nothing that it names is imported but our own parts, nothing downloaded.

    data_dir  where the data lies, if no longer where the run found it
    trust     whether its configuration may name code outside lipcert
    splits    whose images are looked at: they must be those that the run was made with

    Raises ValueError, in one line, where there is no run, its training has not ended, a file is damaged, or the data is
    not what it was trained with.
    """
    run = RunDirectory(directory)
    config = read_config(directory, trust=trust, parts=("dataset", "certificate", "attack"))
    network = read_network(run)
    if data_dir is not None and "data_dir" in config["dataset"]:
        config["dataset"]["data_dir"] = data_dir
    dataset = build_dataset(config["dataset"], download=False)
    due = (tuple(dataset.input_shape), dataset.num_classes)
    if (network.shape, network.classes) != due:
        raise ValueError(
            f"the network of {run} takes images of {network.shape} to {network.classes} classes, but its data "
            f"set has {due[0]} and {due[1]}"
        )
    check_data(run, dataset, splits)
    return LoadedRun(run, config, network, dataset)


def build_dataset(node: dict[str, Any], download: bool = True) -> Dataset:
    """The data set that a configuration asks for; ValueError for what does not fit.

    download  whether what is missing may be fetched: not on the word of somebody else's run
    """
    if not isinstance(node, dict) or "_target_" not in node:
        raise ValueError("`dataset._target_` must be given: it says what the data set is")
    node = node if download else offline(node)
    check(node, "dataset")
    return build(node)


def read_network(run: RunDirectory) -> Network:
    """The frozen network of a run; ValueError where its training has not ended, or the file is damaged."""
    names = [f"{NETWORK}/{TEXT}", f"{NETWORK}/{TENSORS}"]
    if not all(map(run.has, names)):
        raise ValueError(
            f"no network at {run / NETWORK}, the run was stopped before its training ended: `lipcert train "
            f"resume={run}` goes on"
        )
    for name in names:
        run.verify(name)
    return load(run / NETWORK)


def fingerprints(dataset: Dataset) -> dict[str, str]:
    """The SHA-256 of each split's images and labels; of files that are read batch by batch, of names and sizes."""
    return {name: _fingerprint(getattr(dataset, name)) for name in ("train", "val", "test")}


def check_data(run: RunDirectory, dataset: Dataset, splits: tuple[str, ...]) -> None:
    """ValueError where the splits named are not those that the run was made with."""
    known = run.manifest()["data"]
    for name in splits:
        if known.get(name) != _fingerprint(getattr(dataset, name)):
            raise ValueError(
                f"the {name} images of `dataset` are not those that {run} was made with (their SHA-256 differs): is "
                "`data_dir` the right one?"
            )


def _fingerprint(split: Split) -> str:
    found = hashlib.sha256(repr((tuple(split.images.shape), split.crop)).encode())
    if isinstance(split.images, ImageFiles):
        for path in map(Path, split.images.paths):
            found.update(f"{'/'.join(path.parts[-3:])}:{path.stat().st_size}\n".encode())
    else:
        found.update(split.images.cpu().contiguous().numpy().data)
    found.update(split.labels.cpu().contiguous().numpy().data)
    return found.hexdigest()
