"""What is meant by a word that is no option, no key or no override here: of other programs, or misspelt."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from lipcert.cli import describe
from lipcert.cli.choices import Chosen, chosen, options
from lipcert.runs.directory import is_run
from lipcert.runs.find import exists

NUMEROUS = 20  # choices: an error does not list more than these
MOST = 4  # suggestions at once

KEYS = {  # by words of other programs; of several keys those that the command has
    ("debug=true",): "debugging fast_dev_run",
    ("data_dir",): "data_path data_root dataset_path root",
    ("dataset", "data_dir"): "data",
    ("dataset",): "dataset_name datasets",
    ("dataset.subset",): "train_size",
    ("dataset.val_size",): "val_fraction val_split validation_split",
    ("dataset.workers",): "num_workers",
    ("device", "trainer=gpu"): "device",
    ("eps", "attack.eps"): "epsilon",
    ("experiment",): "exp recipe",
    ("logger",): "loggers",
    ("loss",): "criterion loss_fn",
    ("model",): "arch architecture backbone net network",
    ("name",): "exp_name experiment_name run_name",
    ("optimizer",): "opt optim",
    ("optimizer.lr",): "learning_rate",
    ("optimizer.weight_decay",): "wd",
    ("output_dir", "run"): "run_dir",
    ("output_dir",): "out out_dir outdir output save save_dir",
    ("resume", "run"): "checkpoint ckpt ckpt_path load resume_from resume_from_checkpoint weights",
    ("resume",): "run",
    ("run", "dataset.path"): "path",
    ("schedule",): "lr_scheduler scheduler",
    ("schedule.batch_size", "batch_size"): "batch batchsize bs",
    ("schedule.early_stopping",): "patience",
    ("schedule.epochs",): "max_epochs n_epochs num_epochs",
    ("seed",): "manual_seed random_seed",
    ("tags",): "tag",
    ("trainer.accelerator", "device"): "accelerator",
    ("trainer.devices", "device=cuda"): "gpus n_gpus nproc nproc_per_node num_gpus",
    ("trainer.num_nodes",): "nodes",
    ("trainer=gpu", "device=cuda"): "gpu",
}
WORDS = {word: keys for keys, words in KEYS.items() for word in words.split()}
OPTIONS = {  # by other names of them
    "adamw": "adam",
    "cuda": "gpu",
    "cw": "carlini_wagner_l2",
    "linfinity": "linf",
    "multistep": "milestones",
    "nn": "nearest_neighbour",
    "step": "milestones",
}


def did_you_mean(found: Sequence[str]) -> str:
    """What ends a message: "; did you mean `a`, `b` or `c`?" of suggestions, the best first; "" of none."""
    *others, last = [f"`{word}`" for word in found[:MOST]] or [""]
    return f"; did you mean {' or '.join(filter(None, [', '.join(others), last]))}?" if last else ""


def among(word: str, choices: Sequence[str], where: str = "--help") -> str:
    """The choices that may be meant, and all of them if they are not too many; `where` lists them otherwise."""
    listed = ", ".join(choices) if len(choices) <= NUMEROUS else f"{len(choices)}, which {where} lists"
    return f"{did_you_mean(options_meant(word, choices))} (choices: {listed})"


def options_meant(word: str, choices: Sequence[str]) -> list[str]:
    """The choices that a word may mean: a slip, another spelling or name, a part of theirs, or the most like it."""
    word = word[:100]
    if slip := difflib.get_close_matches(word, choices, 1, 0.88):
        return slip
    bare = _bare(word)
    if spelt := [choice for choice in choices if bare in (_bare(choice), _bare(choice.rpartition("/")[2]))]:
        return spelt
    if OPTIONS.get(bare) in choices:
        return [OPTIONS[bare]]
    if parts := [choice for choice in choices if len(bare) > 2 and bare in _bare(choice)]:
        return sorted(parts, key=lambda choice: (not _bare(choice).startswith(bare), len(choice)))
    return difflib.get_close_matches(word, choices, 1, 0.5)


def _bare(text: str) -> str:
    return re.sub(r"[\W_]", "", text).lower()


def keys_meant(key: str, config: Chosen) -> list[str]:
    """The keys of a configuration that a dotted key which it does not have stands for, the best first.

    A slip of one beside it; what the word stands for in other programs; the keys elsewhere whose last word is the same.
    """
    word = key.rpartition(".")[2].lower().replace("-", "_")
    if not (found := _beside(key, config, 0.85) or _exist(WORDS.get(word, ()), config)):
        leaves = [name for name, value in config.values.items() if not isinstance(value, dict)]
        same = [name for name in leaves if word == name.rpartition(".")[2] or key == name.replace(".", "_")]
        same = [name for name in same if not name.startswith("training.")] or same
        least = min((name.count(".") for name in same), default=0)
        found = [name for name in same if name.count(".") == least]
    return [name for name in found if name != key]


def _exist(keys: Iterable[str], config: Chosen) -> list[str]:
    return [key for key in keys if key.partition("=")[0] in _names(config)]


def _names(config: Chosen) -> set[str]:
    """All keys and groups, with what the command line itself takes of a training."""
    return {*config.values, *config.options, *(describe.DEBUG if "schedule" in config.options else ())}


def spelt_like(key: str, config: Chosen) -> list[str]:
    """The key that is spelt most like a dotted key which there is not: of those beside it, else of all as deep."""
    names = _names(config) - {key}
    if (found := _beside(key, config, 0.6)) or key.rpartition(".")[0] in names:
        return found
    return difflib.get_close_matches(key[:100], sorted(n for n in names if n.count(".") == key.count(".")), 1, 0.8)


def _beside(key: str, config: Chosen, cutoff: float) -> list[str]:
    """Of the keys beside a dotted key only the last word is compared, for the others agree anyway."""
    parent, _, last = key.rpartition(".")
    names = sorted(name for name in _names(config) - {key} if name.rpartition(".")[0] == parent)
    beside = {name.rpartition(".")[2]: name for name in names}
    return [beside[word] for word in difflib.get_close_matches(last[:100], beside, 1, cutoff)]


def options_with(key: str, config: Chosen, config_dir: str | None = None) -> dict[str, list[str]]:
    """{full key: options of its group that have it} of a key that the chosen options do not have.

    `key` is dotted, or the last word of one; what WORDS says it stands for counts as well.
    """
    names = [key, *WORDS.get(key.rpartition(".")[2], ())]
    found: dict[str, list[str]] = {}
    for group in (group for group in config.options if "@" not in group and group not in ("experiment", "table")):
        for name in options(group, config_dir):
            if name == config.options[group]:
                continue
            for inner in describe.option(group, name, config_dir).keys:
                full = f"{group}.{inner}"
                if full in names or (inner == key and "." not in key):
                    found.setdefault(full, []).append(name)
    return found


def override_meant(word: str, command: str, config_dir: str | None = None) -> list[str]:
    """The overrides that a word without = may mean: a run, an option of a group, or a key without its value."""
    known = describe.command(command)
    if exists(word) and is_run(Path(word)):
        return [f"{key}={word}" for key in ("run", "resume") if key in known.keys]
    groups = sorted(known.brings.keys() - {"training"}, key=lambda group: (group != "model", group))
    if found := [f"{group}={word}" for group in groups if word in options(group, config_dir)]:
        return found
    if word == "help":
        return ["--help"]
    config = chosen(command)
    keys = [word] if word in _names(config) else keys_meant(word, config)
    return [key if "=" in key else f"{key}=..." for key in keys]


def flag_meant(flag: str, names: Sequence[str], command: str) -> str:
    """What is said of a flag that there is not: the flag that is spelt like it, or the key, which has no dashes."""
    name, _, value = flag.partition("=")
    if name in ("-sc", "--shell-completion"):
        return ": `lipcert completion bash` prints a script for a shell"
    if difflib.get_close_matches(name, names, 1, 0.75):
        return among(name, names)
    config, key = chosen(command), name.lstrip("-").replace("-", "_")
    keys = [key] if key in _names(config) else keys_meant(key, config)
    if not keys:
        return among(name, names)
    written = [key if "=" in key else f"{key}={value or '...'}" for key in keys]
    return f": keys are written without dashes{did_you_mean(written)}"
