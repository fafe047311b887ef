"""Runs told apart by their configurations: what differs, what is one experiment with several seeds, what to call it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lipcert.runs.find import Run

# Where a run was, is and ran: two runs that differ in nothing else are the same experiment.
BOOKKEEPING = frozenset({"run", "resume", "output_dir", "data_dir", "hydra", "launcher"})
_ABSENT = "(absent)"


def differing_keys(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The dotted keys that are not the same in all `configs`, bookkeeping aside."""
    flat = [_flatten(config) for config in configs]
    keys = dict.fromkeys(key for config in flat for key in config)
    return [key for key in keys if len({repr(config.get(key, _ABSENT)) for config in flat}) > 1]


def group_by_seed(runs: Iterable[Run]) -> list[list[Run]]:
    """Runs whose configurations differ only in keys named seed, together. The same seed again is no second sample: it
    opens another group."""
    groups: dict[tuple[str, int], list[Run]] = {}
    seen: dict[tuple[str, str], int] = {}
    for run in runs:
        flat = _flatten(run.config)
        rest = repr(sorted((key, repr(value)) for key, value in flat.items() if not _is_seed(key)))
        seeds = repr(sorted((key, repr(value)) for key, value in flat.items() if _is_seed(key)))
        repeat = seen[rest, seeds] = seen.get((rest, seeds), -1) + 1
        groups.setdefault((rest, repeat), []).append(run)
    return list(groups.values())


def group_names(groups: Sequence[Sequence[Run]]) -> tuple[list[str], list[str]]:
    """(a name for each group, all different, from what differs; the differing keys that the names leave out).

    Those are the keys that follow from what was chosen: with another `model._target_` come another loss and schedule.
    """
    flat = [_flatten(group[0].config) for group in groups]
    differing = [key for key in differing_keys([group[0].config for group in groups]) if not _is_seed(key)]
    used = _telling(flat, differing)
    words = {key: _words([config.get(key, _ABSENT) for config in flat]) for key in used}
    names = []
    for i, group in enumerate(groups):
        parts = [f"{key.removesuffix('._target_')}={words[key][i]}" for key in used]
        names.append(" ".join(parts) or group[0].path.name)
    twice = {name for name in names if names.count(name) > 1}
    names = [f"{name} ({group[0].path})" if name in twice else name for name, group in zip(names, groups, strict=True)]
    return names, [key for key in differing if key not in used]


def _telling(flat: Sequence[Mapping[str, Any]], differing: Sequence[str]) -> list[str]:
    """Those of the `differing` keys that do not follow from others: what was chosen first, then single values."""
    first = ("model._target_", "dataset._target_")
    targets = [key for key in first if key in differing]
    targets += [key for key in differing if key.endswith("._target_") and key not in first]
    chosen: list[str] = []
    for key in targets:
        if not _follows(key, chosen, flat):
            chosen.append(key)
    used = chosen + [key for key in differing if key not in targets and not _follows(key, chosen, flat)]
    if not used and any("model._target_" in config for config in flat):
        return ["model._target_"]
    return used


def _follows(key: str, others: Sequence[str], flat: Sequence[Mapping[str, Any]]) -> bool:
    """Whether these configurations never differ in `key` where they agree in all `others`."""

    def cell(config: Mapping[str, Any], keys: Sequence[str]) -> str:
        return repr([config.get(k, _ABSENT) for k in keys])

    return len({cell(config, others) for config in flat}) == len({cell(config, [*others, key]) for config in flat})


def _words(values: Sequence[Any]) -> list[str]:
    """`lipcert.models.l2nnn.L2NNN` is called l2nnn, as its file is, where that tells it from the others."""

    def short(value: Any) -> str:
        parts = str(value).split(".")
        return parts[-2] if len(parts) > 2 and all(map(str.isidentifier, parts)) else str(value)

    shorter = list(map(short, values))
    return shorter if len(set(shorter)) == len(set(map(str, values))) else list(map(str, values))


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if key in BOOKKEEPING:
            continue
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _is_seed(key: str) -> bool:
    return key.rpartition(".")[2] == "seed"
