"""What runs and sweeps are called: names made of what was chosen, which a person can read and sort."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lipcert.runs.naming import clean


def run_name(choices: Mapping[str, Any]) -> str:
    """MODEL-DATASET, of the options that were chosen of Hydra's groups."""
    return clean("-".join(str(choices[group]) for group in ("model", "dataset") if choices.get(group)))


def job_name(overrides: Sequence[str], fixed: Iterable[str]) -> str:
    """What tells a job from the others of its sweep: `c=0.5-seed=1`.

    overrides  those of the job
    fixed      the keys that are the same in all jobs
    """
    varied = chosen(overrides, fixed)
    last = [key.rpartition(".")[2] for key in varied]
    words = [word if last.count(word) == 1 else key for word, key in zip(last, varied, strict=True)]
    return clean("-".join(f"{word}={value}" for word, value in zip(words, varied.values(), strict=True))) or "job"


def chosen(overrides: Sequence[str], fixed: Iterable[str] = ()) -> dict[str, str]:
    """{key: value} as written, but for the keys in `fixed`."""
    same = set(fixed)
    return {key: value for key, value in map(key_and_value, overrides) if key and key not in same}


def sweep_name(overrides: Sequence[str]) -> str:
    """sweep-KEY-KEY, of the keys that have several values on the command line."""
    varied = [key.rpartition(".")[2] for override in overrides if (key := varied_key(override))]
    return clean("-".join(["sweep", *varied]))


def fixed_keys(overrides: Sequence[str]) -> list[str]:
    """The keys that have one value on the command line."""
    keys = [key_and_value(override)[0] for override in overrides if not varied_key(override)]
    return [key for key in keys if key and not key.startswith("hydra")]


def varied_key(override: str) -> str:
    """The key of an override that has several values; "" where it has one, or can't be read."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        read = OverridesParser.create().parse_override(override)
    except HydraException:  # Hydra will say what is wrong with it
        return ""
    return read.key_or_group if read.is_sweep_override() else ""


def key_and_value(override: str) -> tuple[str, str]:
    """("model.depth", "3") of `++model.depth=3`; ("", "") of what deletes a key."""
    key, _, value = override.partition("=")
    return ("", "") if key.startswith("~") else (key.lstrip("+").partition("@")[0], value)
