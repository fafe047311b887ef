"""The HParams tab of TensorBoard, in which runs are compared.

TensorBoard opens on five hyperparameters, first those that differ among the runs that it is shown, and on five of all
logged numbers, the first by name. At 1600 pixels six of these ten are on the screen. So few hyperparameters are given
here (the whole configuration is in the Text tab), and the accuracies that matter have names that come first. A list of
names, which other writers give with each run, would fix both before it is known which hyperparameters differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lipcert.runs.logged import kind
from lipcert.runs.numbers import WORDS

MAIN = 2  # radii whose accuracies are shown first
# What is chosen on the command line and changes no result.
BOOKKEEPING = {"output_dir", "data_dir", "name", "tags", "logger", "monitor", "trainer", "trust", "objective", "hydra"}


def compared(config: Mapping[str, Any]) -> dict[str, float | str]:
    """The hyperparameters of a run: what its sweep varies, else what was chosen on the command line."""
    written = config["chosen"].items()
    chosen = {key: number(str(value)) for key, value in written if key.partition(".")[0] not in BOOKKEEPING}
    if config["tags"]:
        chosen["tags"] = ", ".join(config["tags"])
    return chosen or {part: kind(config[part]) for part in ("model", "dataset")}


def number(text: str) -> float | str:
    """The number that a text is, or the text."""
    try:
        return float(text)
    except ValueError:
        return text


def headline(summary: Mapping[str, Any]) -> dict[str, float]:
    """Clean accuracy, and at two radii what is claimed of it and what attacks leave: names that come first."""
    word = WORDS[summary["kind"]]
    claimed, robust = summary[f"{word}_accuracy"], summary["robust_accuracy"]
    found = {"accuracy/clean": summary["clean_accuracy"]}
    for eps in main_radii(list(claimed)):
        found[f"accuracy/{word}/{eps}"] = claimed[eps]
        found |= {f"accuracy/robust/{attack}/{eps}": at[eps] for attack, at in robust.items() if eps in at}
    return found


def main_radii(radii: Sequence[str]) -> list[str]:
    """The two radii in the middle: at the smallest, all runs are alike, at the largest there is little left."""
    ordered = sorted(radii, key=float)
    return ordered[max(len(ordered) - MAIN + 1, 0) // 2 :][:MAIN]


def start(directory: Path, config: Mapping[str, Any]) -> Any:
    """What begins a run: its hyperparameters, and a name of which the first letters tell it from others."""
    from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG
    from tensorboard.plugins.hparams.plugin_data_pb2 import SessionStartInfo

    place = directory.resolve()
    info = SessionStartInfo(group_name=f"{place.name} in {place.parent}")
    for key, value in compared(config).items():
        if isinstance(value, str):
            info.hparams[key].string_value = value
        else:
            info.hparams[key].number_value = value
    return _summary(SESSION_START_INFO_TAG, session_start_info=info)


def end() -> Any:
    """What ends a run that has its record."""
    from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS
    from tensorboard.plugins.hparams.metadata import SESSION_END_INFO_TAG
    from tensorboard.plugins.hparams.plugin_data_pb2 import SessionEndInfo

    return _summary(SESSION_END_INFO_TAG, session_end_info=SessionEndInfo(status=STATUS_SUCCESS))


def _summary(tag: str, **info: Any) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.plugins.hparams.metadata import PLUGIN_DATA_VERSION, PLUGIN_NAME
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    content = HParamsPluginData(version=PLUGIN_DATA_VERSION, **info).SerializeToString()
    plugin = SummaryMetadata.PluginData(plugin_name=PLUGIN_NAME, content=content)
    return Summary(value=[Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin))])
