"""Runs told apart by their configurations: what differs, what is one experiment with several seeds, what to call it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lipcert.runs.find import Run

# How a run is called and watched, where it was, is and ran: two runs that differ in nothing else are one experiment.
BOOKKEEPING = frozenset(
    {"name", "tags", "chosen", "logger", "monitor", "objective", "output_dir", "resume", "launcher"}
)
_ABSENT = "(absent)"
# What a reader looks for first where results differ: it is left out of names only where it came with the model.
_TELLING = ("schedule.epochs", "schedule.batch_size")


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
    """A name for each group, all different, made of what differs: `model=l2nnn epochs=40`.

    A key that a run does not have is not in its name, nor one that only follows from what was chosen, as another
    `model` brings another loss, unless it was written on that run's command line.

    Returns the names, and the parts or keys that differ and are in none of them.
    """
    flat = [_flatten(group[0].config) for group in groups]
    differing = [key for key in differing_keys([group[0].config for group in groups]) if not _is_seed(key)]
    trained = [key for key in differing if not key.startswith("attack.")]
    enough = all(_follows(key, trained, flat) for key in differing)
    named = trained if enough else differing  # attacks have columns of their own
    written = [set(group[0].config.get("chosen") or ()) for group in groups]
    telling = _telling(flat, named)
    used = telling + [key for key in named if key not in telling and any(key in mine for mine in written)]
    keys = _short_keys(used)
    words = {key: _words([config.get(key, _ABSENT) for config in flat]) for key in used}
    names = []
    for i, group in enumerate(groups):
        mine = [key for key in used if key in flat[i] and key in (*telling, *_TELLING, *written[i])]
        parts = [f"{keys[key]}={words[key][i]}" for key in mine]
        names.append(" ".join(parts) or str(group[0].config.get("name") or group[0].path.resolve().name))
    for name in {name for name in names if names.count(name) > 1}:
        same = [i for i, other in enumerate(names) if other == name]
        for i, place in zip(same, _places([groups[i][0].path.resolve().parts for i in same]), strict=True):
            names[i] = f"{name} ({place})"
    return ["".join(c if c.isprintable() else "?" for c in name) for name in names], _left_out(differing, used)


def _telling(flat: Sequence[Mapping[str, Any]], differing: Sequence[str]) -> list[str]:
    """Those of the `differing` keys that do not follow from others: what was chosen first, then single values."""
    first = [key for key in ("model._target_", "dataset._target_") if key in differing]
    targets = first + [key for key in differing if key.endswith("._target_") and key not in first]
    chosen: list[str] = []
    for key in targets:
        if not _follows(key, chosen, flat):
            chosen.append(key)
    brought = [key for key in chosen if key in first]
    used = list(chosen)
    for key in differing:
        if key in targets or _follows(key, brought if key in _TELLING else chosen, flat):
            continue
        # conf/ has values of other keys there: schedule.eps.end is loss.eps.
        refers = key.startswith(("schedule.", "attack.")) and key not in _TELLING
        if not (refers and any(_same(key, other, flat) for other in used)):
            used.append(key)
    return used


def _follows(key: str, others: Sequence[str], flat: Sequence[Mapping[str, Any]]) -> bool:
    """Whether these configurations never differ in `key` where they agree in all `others`."""

    def cell(config: Mapping[str, Any], keys: Sequence[str]) -> str:
        return repr([config.get(k, _ABSENT) for k in keys])

    return len({cell(config, others) for config in flat}) == len({cell(config, [*others, key]) for config in flat})


def _same(key: str, other: str, flat: Sequence[Mapping[str, Any]]) -> bool:
    return all(repr(config.get(key, _ABSENT)) == repr(config.get(other, _ABSENT)) for config in flat)


def _short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Each key's last word, where no other one has it; `model._target_` is the model."""
    plain = {key: key.removesuffix("._target_") for key in keys}
    last = {key: name.rpartition(".")[2] for key, name in plain.items()}
    return {key: word if list(last.values()).count(word) == 1 else plain[key] for key, word in last.items()}


def _words(values: Sequence[Any]) -> list[str]:
    """The values, each as short as it is still another one than the others."""
    short = list(map(_word, values))
    return short if len(set(short)) == len(set(map(repr, values))) else list(map(str, values))


def _word(value: Any) -> str:
    """`lipcert.models.l2nnn.L2NNN` is called l2nnn, as its file is, and somebody else's class by its own name."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return f"[{','.join(map(_word, value))}]"
    parts = str(value).split(".")
    if len(parts) < 3 or not all(map(str.isidentifier, parts)):
        return str(value)
    return parts[-2] if parts[0] == "lipcert" and len(parts) > 3 else parts[-1]


def _places(paths: Sequence[tuple[str, ...]]) -> list[str]:
    """The ends of paths, as long as it takes to tell them apart."""
    length = next((n for n in range(1, max(map(len, paths))) if len({path[-n:] for path in paths}) == len(paths)), 0)
    return ["/".join(path[-length:]) for path in paths]


def _left_out(differing: Sequence[str], used: Sequence[str]) -> list[str]:
    """The keys that are not in names, several of one part as that part; none of a part that is named."""
    parts: dict[str, list[str]] = {}
    for key in differing:
        parts.setdefault(key.partition(".")[0], []).append(key)
    rest = {part: [key for key in keys if key not in used] for part, keys in parts.items()}
    return [part if keys[1:] else keys[0] for part, keys in rest.items() if keys and f"{part}._target_" not in used]


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys to values, without bookkeeping. A run that is not attacked has `attack: null`."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if key == "data_dir" or (not prefix and key in BOOKKEEPING):
            continue
        if key == "attack" and value is None:
            value = {"_target_": "none"}
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _is_seed(key: str) -> bool:
    return key.rpartition(".")[2] == "seed"
