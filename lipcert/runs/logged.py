"""What loggers are told of a run: its hyperparameters, and the numbers of its record, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lipcert.runs.numbers import MAXIMA, WORDS


def hyperparameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """All values of a configuration that decide about results, by dotted keys; of a part also what it is."""
    out = {"seed": config["seed"]}
    for part in ("dataset", "model", "loss", "optimizer", "schedule", "certificate", "attack", "trainer"):
        out |= {part: kind(config[part])} | flat(config[part] or {}, f"{part}.")
    return out


def kind(node: Mapping[str, Any] | None) -> str:
    """The last word of what a part is."""
    return (node or {}).get("_target_", "none").rpartition(".")[2]


def flat(node: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Dotted keys to plain values, without what only says where things lie or repeats the seed."""
    out: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, dict):
            out |= flat(value, f"{prefix}{key}.")
        elif key not in ("_target_", "_partial_", "data_dir", "download", "path", "seed"):
            out[f"{prefix}{key}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return out


def final_numbers(summary: Mapping[str, Any]) -> dict[str, float]:
    """All accuracies, median radii and distances of a record, which are of the test images, by name."""
    found: dict[str, Any] = {"clean_accuracy": summary.get("clean_accuracy")}
    for word in WORDS.values():
        found |= {f"{word}_accuracy/{eps}": value for eps, value in summary.get(f"{word}_accuracy", {}).items()}
    for key in ("median_radius", "nominal_median_radius", "statistical_median_radius", *MAXIMA):
        found[key] = summary.get(key)
    found |= {f"median_distance/{attack}": value for attack, value in summary["median_distance"].items()}
    for attack, values in summary["robust_accuracy"].items():
        found |= {f"robust_accuracy/{attack}/{eps}": value for eps, value in values.items()}
    return {f"test/{key}": value for key, value in found.items() if value is not None}
