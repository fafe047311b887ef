"""Checkpoints: read as tensors and numbers, and as nothing else."""

from __future__ import annotations

import math
import pickle
import zipfile
from pathlib import Path
from typing import Any

from lipcert.runs.directory import RunDirectory
from lipcert.runs.layout import CHECKPOINT

NEEDED = frozenset({"state_dict", "epochs_done"})
MOST_DEPTH, MOST_ITEMS = 20, 1_000_000
MOST_EPOCHS = 10**9


def load_checkpoint(run: RunDirectory) -> dict[str, Any]:
    """The checkpoint of a run: dictionaries and lists of tensors, numbers and texts.

    Raises ValueError, in one line, where there is none, where it is damaged, or where it holds anything else.
    """
    import torch

    path = run / CHECKPOINT
    if not path.exists():
        raise ValueError(
            f"no checkpoint at {path}, the run was stopped before its first epoch ended: `lipcert train resume={run}` "
            "goes on"
        )
    run.verify(CHECKPOINT)
    _check_archive(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path} can't be read as a checkpoint: it is of another kind, or holds more than plain data, which could "
            "be code"
        ) from None
    except Exception as error:  # torch raises many kinds for files that are damaged or of another kind
        raise ValueError(f"{path} can't be read as a checkpoint: it is cut short, or of another kind") from error
    if not isinstance(checkpoint, dict) or not checkpoint.keys() >= NEEDED:
        raise ValueError(f"{path} is a file of torch, but no checkpoint of lipcert")
    _check_plain(checkpoint, path)
    epochs, weights = checkpoint["epochs_done"], checkpoint["state_dict"]
    if type(epochs) is not int or not 0 <= epochs <= MOST_EPOCHS:
        raise ValueError(f"{path} is damaged: `epochs_done` is {str(epochs)[:40]}")
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise ValueError(f"{path} is damaged: `state_dict` holds something that is no weight")
    return checkpoint


def best_of(checkpoint: dict[str, Any], path: Path) -> dict[str, Any] | None:
    """What a checkpoint holds of the epoch with the smallest validation loss: `epoch`, from 1, its `loss`, the
    classifier's weights after it as `state_dict`, and how many `epochs` the training was to have then (it may have been
    made longer since); None of a training that keeps no best weights.

    Raises ValueError where it is damaged; `path` is of its file.
    """
    import torch

    best = checkpoint.get("best")
    if best is None:
        return None
    known = best if isinstance(best, dict) else {}
    epoch, loss, weights = (known.get(key) for key in ("epoch", "loss", "state_dict"))
    whole = (
        type(epoch) is int
        and 1 <= epoch <= checkpoint["epochs_done"]
        and isinstance(loss, float)
        and math.isfinite(loss)
    )
    if not whole or not isinstance(weights, dict) or not all(isinstance(x, torch.Tensor) for x in weights.values()):
        raise ValueError(f"{path} is damaged: `best` does not hold the weights of an epoch")
    return best


def load_weights(module: Any, weights: dict[str, Any], path: Path) -> None:
    """Loads the weights of a checkpoint into a module; ValueError where they are not those of the module."""
    try:
        module.load_state_dict(weights)
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[-1].strip()
        raise ValueError(f"the weights in {path} do not fit the run's own model: {reason}") from None


def _check_archive(path: Path) -> None:
    """Refuses an archive that grows when it is read: torch stores its tensors as they are."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [item for item in archive.infolist() if item.compress_type != zipfile.ZIP_STORED]
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, RuntimeError):
        raise ValueError(f"{path} can't be read as a checkpoint: it is cut short, or of another kind") from None
    if packed:
        raise ValueError(f"{path} can't be read as a checkpoint: it is compressed, which torch never does")


def _check_plain(checkpoint: Any, path: Path) -> None:
    """ValueError where a checkpoint holds more than dense tensors in memory, numbers, texts, lists and dictionaries."""
    import torch

    left: list[tuple[Any, int]] = [(checkpoint, 0)]
    seen = 0
    while left:
        value, depth = left.pop()
        seen += 1
        if depth > MOST_DEPTH or seen > MOST_ITEMS:
            raise ValueError(f"{path} is nested too deeply or too large for a checkpoint")
        if isinstance(value, dict):
            left += [(item, depth + 1) for pair in value.items() for item in pair]
        elif isinstance(value, list | tuple):
            left += [(item, depth + 1) for item in value]
        elif isinstance(value, torch.Tensor):
            plain = value.device.type == "cpu" and value.layout is torch.strided and not value.is_quantized
            if not plain:
                raise ValueError(f"{path} holds a tensor without plain numbers: a checkpoint has none")
        elif not (value is None or isinstance(value, bool | int | float | str)):
            raise ValueError(f"{path} holds a {type(value).__name__}: a checkpoint has only tensors and numbers")
