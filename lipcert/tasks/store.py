"""A run's directory: where everything that a run claims lies, and how its classifier is rebuilt from it."""

from __future__ import annotations

import json
import pickle
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from lipcert.reporting.files import write_atomic
from lipcert.tasks.settings import build, check, check_trusted

CONFIG, CHECKPOINT, METRICS = "config.yaml", "checkpoints/last.ckpt", "metrics.csv"
CERTIFICATES, CERTIFICATE, ATTACKS = "certificates.csv", "certificate.json", "attacks.csv"
SUMMARY, CURVES, ATTACK_SECONDS = "summary.json", "curves.png", "attack_seconds.json"
LABEL_NOISE, STABILITY, NETWORK = "label_noise.csv", "stability.csv", "network"
COUNTEREXAMPLES = "counterexamples"
KEYS = {"seed", "eps", "dataset", "model", "loss", "optimizer", "schedule", "certificate", "attack", "trainer"}


def create(directory: Path, config: dict[str, Any]) -> None:
    """Makes a new run's directory with its config.yaml; ValueError if there is one already or it can't be written."""
    try:
        if directory.exists() and not directory.is_dir():
            raise ValueError(f"`output_dir`: {directory} is a file")
        if directory.exists() and any(path.suffix != ".partial" for path in directory.iterdir()):
            raise ValueError(f"`output_dir`: {directory} already exists; give another, or go on by resume={directory}")
        directory.mkdir(parents=True, exist_ok=True)
        write_atomic(directory / CONFIG, yaml.safe_dump(config, sort_keys=False))
    except OSError as error:
        raise ValueError(f"`output_dir`: {directory} cannot be written ({error.strerror or error})") from None


def keep_label_noise(directory: Path, dataset: Any) -> None:
    """Writes label_noise.csv where training labels were replaced: index in the training set, label before and after."""
    noise = dataset.label_noise
    if len(noise.indices):
        rows = zip(*(column.tolist() for column in noise), strict=True)
        text = "".join(f"{index},{before},{after}\n" for index, before, after in rows)
        write_atomic(directory / LABEL_NOISE, "index,before,after\n" + text)


def read_config(
    directory: Path, key: str = "run", trust: bool = False, parts: Collection[str] = KEYS
) -> dict[str, Any]:
    """A run's resolved configuration; ValueError if there is no run, or the targets of `parts`, those of it that the
    caller builds, aren't ours."""
    path = directory / CONFIG
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        config = None
    if not isinstance(config, dict) or not config.keys() >= KEYS:
        raise ValueError(
            f"`{key}`: {directory} is not a run's directory (no readable {CONFIG}): give one that `lipcert train` wrote"
        )
    check_trusted({part: config[part] for part in parts}, trust, str(path))
    return config


def freeze_run(directory: Path, dataset: Any, trust: bool) -> None:
    """Writes the network that the run's training ended with: what is certified, attacked and handed out from here."""
    from lipcert.frozen import freeze
    from lipcert.frozen.file import save

    model = rebuild(load_checkpoint(directory / CHECKPOINT, trust), dataset.input_shape, dataset.num_classes)
    save(freeze(model, dataset.input_shape, getattr(model, "norm", "l2")), directory / NETWORK)


def read_network(directory: Path) -> Any:
    """The frozen network of a run; ValueError where its training has not ended, or the file is damaged."""
    from lipcert.frozen.file import TEXT, load

    if not (directory / NETWORK / TEXT).exists():
        raise ValueError(
            f"no network at {directory / NETWORK}, the run was stopped before its training ended: `lipcert train "
            f"resume={directory}` goes on"
        )
    return load(directory / NETWORK)


def read_summary(directory: Path) -> dict[str, Any]:
    """summary.json, or {} where there is none yet."""
    try:
        return json.loads((directory / SUMMARY).read_text())
    except (OSError, json.JSONDecodeError):
        return {}


def load_checkpoint(path: Path, trust: bool = False) -> dict[str, Any]:
    """A checkpoint of ours as plain data; ValueError in one line if it is missing, cut short or foreign."""
    import torch

    if not path.is_file():
        raise ValueError(
            f"no checkpoint at {path}, the run was stopped before its first epoch ended: `lipcert train "
            f"resume={path.parents[1]}` goes on"
        )
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path} can't be read as a checkpoint: it is of another kind, or holds more than plain data, "
            "which could be code"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"{path} can't be read as a checkpoint: it is cut short, or of another kind") from error
    if not isinstance(checkpoint, dict) or not {"config", "state_dict", "epochs_done"} <= checkpoint.keys():
        raise ValueError(f"{path} is a file of torch, but no checkpoint of lipcert")
    check_trusted(checkpoint["config"], trust, str(path))
    return checkpoint


def load_weights(module: Any, weights: dict[str, Any]) -> None:
    """ValueError where a checkpoint's weights are not those of the module."""
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"the checkpoint's weights do not fit its own model: {reason}") from None


def rebuild(checkpoint: dict[str, Any], input_shape: tuple[int, ...], num_classes: int) -> Any:
    """The classifier that a checkpoint holds, in evaluation mode, with its schedule where it was."""
    config = checkpoint["config"]
    check(config["model"], "model")
    model = build(config["model"], input_shape=input_shape, num_classes=num_classes)
    weights = {k.removeprefix("model."): v for k, v in checkpoint["state_dict"].items() if k.startswith("model.")}
    load_weights(model, weights)
    if not all(value.isfinite().all() for value in weights.values()):
        raise ValueError("the checkpoint's weights are not all finite: it is of a training that diverged")
    build(config["schedule"]).apply(checkpoint["epochs_done"], model=model)
    return model.eval()
