"""What loggers show of a run: in TensorBoard, and at services that are told of it."""

import itertools
import sys
from pathlib import Path

import pytest
import yaml
from commandline import lipcert, refused
from configurations import composed
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from lipcert.commands.train import check_tags
from lipcert.runs.directory import RunDirectory
from lipcert.runs.hparams import compared, main_radii
from lipcert.runs.layout import CONFIG, LOGGER
from lipcert.runs.logged import hyperparameters
from lipcert.runs.metrics import Metrics
from lipcert.runs.tensorboard import TensorBoard
from lipcert.training.loggers import logging
from lipcert.training.services import Service

SUMMARY = {
    "kind": "proof",
    "epochs": 3,
    "clean_accuracy": 0.9,
    "certified_accuracy": {"0.1": 0.8, "0.3": 0.7, "0.5": 0.6, "1.0": 0.1},
    "median_radius": 0.4,
    "median_distance": {},
    "robust_accuracy": {"pgd_l2-40": {"0.1": 0.85, "0.3": 0.75, "0.5": 0.65, "1.0": 0.2}},
}
PNG = bytes(16) + bytes([0, 0, 0, 2, 0, 0, 0, 3])


def config(**chosen: str) -> dict:
    return {**composed("model.depth=2"), "name": "mine", "tags": [], "chosen": chosen}


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    made = RunDirectory(tmp_path / "depth=2")
    made.path.mkdir()
    made.create_manifest({})
    made.replace(CONFIG, yaml.safe_dump(config()))
    return made


def shown(directory: Path) -> EventAccumulator:
    return EventAccumulator(str(directory)).Reload()


def written(directory: Path, content: dict) -> None:
    board = TensorBoard()
    board.begin(directory, content)
    for epoch in (1, 2, 3):
        board.epoch({"epoch": epoch, "step": 10 * epoch, "train/loss": 1 / epoch, "seconds": 0.5})
    board.record(SUMMARY, PNG)
    board.end(True)


def test_the_hparams_tab_opens_on_what_was_swept_and_on_the_accuracies(run):
    written(run.path, config(**{"model.depth": "2", "optimizer.lr": "1e-2"}))
    board = shown(run.path)
    content = board.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    start = metadata.parse_session_start_info_plugin_data(content)
    values = {key: getattr(value, value.WhichOneof("kind")) for key, value in start.hparams.items()}
    assert values == {"model.depth": 2, "optimizer.lr": 0.01}
    assert start.group_name.startswith("depth=2 in ")  # what a column of 16 characters shows
    tags = board.Tags()
    assert metadata.EXPERIMENT_TAG not in tags["tensors"]  # it would fix what is shown before it is known what differs
    assert sorted(tags["scalars"])[:5] == [  # which TensorBoard opens on
        "accuracy/certified/0.3",
        "accuracy/certified/0.5",
        "accuracy/clean",
        "accuracy/robust/pgd_l2-40/0.3",
        "accuracy/robust/pgd_l2-40/0.5",
    ]
    assert {name.partition("/")[0] for name in tags["scalars"]} == {"accuracy", "test", "time", "train"}
    assert board.Scalars("test/certified_accuracy/1.0")[0].step == 3
    assert tags["images"] == ["curves"]
    text = board.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert yaml.safe_load("\n".join(line[4:] for line in text.splitlines())) == config()


def test_files_of_one_second_are_read_in_the_order_in_which_they_were_written(run, monkeypatch):
    monkeypatch.setattr("lipcert.runs.tensorboard.NUMBERS", itertools.count(9))
    written(run.path, config())
    assert shown(run.path).Scalars("test/certified_accuracy/1.0")[0].step == 3


def test_a_training_that_goes_on_replaces_what_it_repeats(run):
    written(run.path, config())
    again = TensorBoard()
    again.begin(run.path, config())
    again.epoch({"epoch": 3, "step": 30, "train/loss": 7.0})
    again.epoch({"epoch": 4, "step": 40, "train/loss": 8.0})
    losses = shown(run.path).Scalars("train/loss")
    assert [(event.step, event.value) for event in losses] == [(1, 1.0), (2, 0.5), (3, 7.0), (4, 8.0)]


def test_what_runs_are_compared_by():
    assert compared(config()) == {"model": "L2NNN", "dataset": "digits"}
    chosen = {
        "experiment": "l2nnn/mnist",
        "seed": "3",
        "trainer.devices": "2",
        "logger": "csv",
        "hydra.verbose": "true",
    }
    assert compared(config(**chosen) | {"tags": ["a", "b"]}) == {"experiment": "l2nnn/mnist", "seed": 3, "tags": "a, b"}
    every = hyperparameters(config())
    assert every["model"] == "L2NNN" and every["model.depth"] == 2 and every["optimizer.lr"] == 0.05
    assert not any("_target_" in key or "data_dir" in key for key in every)


@pytest.mark.parametrize(
    ("radii", "main"),
    [
        (["0.1", "0.3", "0.5", "1.0"], ["0.3", "0.5"]),
        (["0.1", "0.3", "1.58"], ["0.3", "1.58"]),
        (["1.0", "0.5"], ["0.5", "1.0"]),
        (["0.1"], ["0.1"]),
        ([], []),
    ],
)
def test_main_radii(radii, main):
    assert main_radii(radii) == main


def test_without_a_logger_there_is_metrics_csv_alone(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keys = ("model=nearest_neighbour", "dataset.subset=20", "attack=none", "tags=[a,b]", "logger=csv")
    assert lipcert(capsys, "train", *keys, "output_dir=run").status == 0
    assert lipcert(capsys, "certify", "run=run").status == 0
    assert not list(Path("run").glob("*tfevents*"))
    kept = yaml.safe_load(Path("run", CONFIG).read_text())
    assert kept["tags"] == ["a", "b"] and kept["logger"] is None


class Recorded(Service):
    """A service that keeps what it is told; `broken` from the start."""

    name = "recorded"

    def __init__(self, told: list, broken: bool = False):
        self.told, self.broken = told, broken

    def make(self, identity):
        if self.broken:
            raise ConnectionError("nobody answers")
        self.told.append(("made", identity))
        self.version = identity or "7"
        return self

    def log_hyperparams(self, values):
        self.told.append(("hyperparameters", values["model.depth"]))

    def log_metrics(self, values, step):
        self.told.append((step, values))

    def close(self, whole):
        self.told.append(("closed", whole))


def test_a_service_is_told_of_a_run_and_knows_it_again(run, monkeypatch):
    told: list = []
    monkeypatch.setattr("lipcert.training.loggers.build", lambda node: Recorded(told))
    with pytest.raises(RuntimeError), logging(run.path, {**config(), "logger": {"some": "node"}}) as logger:
        assert told == []
        logger.epoch({"epoch": 1, "step": 10, "train/loss": 0.5})
        raise RuntimeError
    assert told == [("made", None), ("hyperparameters", 2), (1, {"train/loss": 0.5}), ("closed", False)]
    assert run.read_json(LOGGER) == {"recorded": "7"}
    told.clear()
    with logging(run.path, {**config(), "logger": {"some": "node"}}) as logger:
        logger.record(SUMMARY, PNG)
    assert [told[0], told[-1]] == [("made", "7"), ("closed", True)]
    assert told[2][0] == 3 and told[2][1]["test/certified_accuracy/0.3"] == 0.7


def test_a_service_that_fails_is_told_no_more(run, capsys):
    service = Recorded([], broken=True)
    service.begin(run.path, config())
    service.epoch({"epoch": 1})
    service.epoch({"epoch": 2})
    service.end(True)
    assert capsys.readouterr().err == (
        "lipcert: `logger`=recorded fails, and is told no more: nobody answers; metrics.csv has it all\n"
    )


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_said_before_anything_is_written(capsys, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, name, None)
    line = refused(capsys, "train", f"logger={name}", "output_dir=run", leaves=(tmp_path,))
    assert line == f"`logger`={name} needs a package that is not installed: pip install 'lipcert[{name}]'"


def test_tags_that_are_refused():
    for tags in (["a", "a"], ["x" * 65], [""], ["a\tb"]):
        with pytest.raises(ValueError, match="`tags` must be words of at most 64 characters, each once"):
            check_tags(tags)


def test_a_column_that_comes_later_is_empty_before(tmp_path):
    metrics = Metrics(tmp_path, keep=0)
    metrics.epoch({"epoch": 1, "seconds": 0.5})
    metrics.epoch({"epoch": 2, "seconds": 0.5, "val/certified_accuracy/0.3": 0.25})
    again = Metrics(tmp_path, keep=1)
    again.epoch({"epoch": 2, "seconds": 0.5, "val/certified_accuracy/0.3": 0.25})
    assert again.path.read_text() == "epoch,seconds,val/certified_accuracy/0.3\n1,0.5,\n2,0.5,0.25\n"
