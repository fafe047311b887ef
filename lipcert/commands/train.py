"""`lipcert train`: data, training, a certificate an image, an attack an image, and the record of the run."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console

from lipcert.configuration import build, check, check_call, radii
from lipcert.datasets.split import Dataset
from lipcert.evaluation.attack import attack_run
from lipcert.evaluation.certify import certify
from lipcert.evaluation.freeze import freeze_run
from lipcert.evaluation.load import LoadedRun, build_dataset, check_data, fingerprints, read_network
from lipcert.evaluation.objective import check_objective, measure
from lipcert.evaluation.record import show, write_record
from lipcert.files import write_atomic
from lipcert.imports import uncollected
from lipcert.runs.config import AlreadyExists, make_directory, read_config, write_config
from lipcert.runs.directory import RunDirectory, is_run
from lipcert.runs.find import is_finished
from lipcert.runs.layout import CONFIG, LABEL_NOISE
from lipcert.runs.naming import clean, free_directory
from lipcert.training import ranks
from lipcert.training.devices import check_trainer, is_first_node
from lipcert.training.extend import extended, lengthen
from lipcert.training.loggers import logging
from lipcert.training.monitor import check_monitor
from lipcert.training.preparation import is_trained, make_optimizer, prepare
from lipcert.training.trial import try_certificate, try_out, try_precision

# What the command takes besides, and config.yaml does not keep.
NOT_KEPT: dict[str, Any] = {
    "training": {},
    "output_dir": "",
    "data_dir": "",
    "resume": None,
    "extend": None,
    "trust": False,
    "objective": None,
}
MOST_CHARACTERS = 64  # of a tag
LABELS = ("name", "tags", "chosen")  # of a run, in its configuration: they say nothing of what it computes


def run(
    *,
    dataset: dict,
    model: dict,
    loss: dict,
    optimizer: dict,
    schedule: dict,
    certificate: dict,
    attack: dict | None,
    trainer: dict,
    training: dict,
    eps: list[float],
    seed: int,
    name: str,
    tags: list[str],
    chosen: dict,
    monitor: dict,
    logger: dict | None,
    output_dir: str | None,
    data_dir: str | None,
    resume: str | None,
    extend: int | None,
    trust: bool,
    objective: str | list[str] | None,
) -> Path:
    """The command. With `resume`, all but `trust` and `extend` comes from that run's own configuration.

    `training` and `data_dir` are what other keys refer to: they stand in these by now. `chosen` is what tells
    the run from others, as written, and `objective` what a sweep asks for, see `run_in_sweep`.

    Returns the run's directory.
    """
    if resume is not None:
        resume_run(Path(resume), trust, extend=extend)
        return Path(resume)
    if extend is not None:
        raise ValueError(f"`extend`={extend} makes a run longer: say which, as in resume=RUN extend={extend}")
    check_name(name)
    config = {
        "name": name,
        "tags": tags,
        "chosen": chosen,
        "seed": seed,
        "eps": eps,
        "dataset": dataset,
        "model": model,
        "loss": loss,
        "optimizer": optimizer,
        "schedule": schedule,
        "certificate": certificate,
        "attack": or_none(attack),
        "trainer": trainer,
        "monitor": monitor,
        "logger": or_none(logger),
    }
    check_call(training_choices, training, "training", called="conf/training")
    data = preflight(config)
    if output_dir is None and trainer["num_nodes"] > 1:
        raise ValueError("`output_dir` must be given where several nodes share it: output_dir=PATH")
    if not is_first_node(trainer["num_nodes"]):
        ranks.train(RunDirectory(str(output_dir)), config, data)
        return Path(str(output_dir))
    directory = make_directory(Path(output_dir)) if output_dir else free_directory(Path("outputs/train"), name)
    new = RunDirectory(directory)
    with new.writing("train"):
        write_config(new, config, fingerprints(data))
        finish(new, config, data)
    return directory


def or_none(node: dict | None) -> dict | None:
    """A part that may be left out: null of attack=none, which may have keys that a recipe sets for its own attack."""
    return node if "_target_" in (node or {}) else None


def check_name(name: str) -> None:
    """ValueError where a directory can't be called so."""
    if not name or name != clean(name):
        raise ValueError(f"`name` may have letters, digits and . _ = + - in it, and not too many of them, got {name!r}")


def check_tags(tags: list[str]) -> None:
    """ValueError for a tag that is too long for a column, or there twice."""
    if any(not 0 < len(tag) <= MOST_CHARACTERS or not tag.isprintable() for tag in tags) or len(set(tags)) < len(tags):
        raise ValueError(f"`tags` must be words of at most {MOST_CHARACTERS} characters, each once, got {tags}")


def training_choices(
    *,
    radius: float | None,
    c: float | None,
    eps_train: float | None,
    eps_ibp: float | None,
    epochs: int,
    batch_size: int,
) -> None:
    """What the group `training` may say; conf/train.yaml explains it."""


def resume_run(directory: Path, trust: bool, download: bool | None = None, extend: int | None = None) -> None:
    """Goes on where a run was stopped; a finished one is left alone, and says so.

    trust     whether its configuration may name code outside lipcert
    download  whether missing data may be downloaded; None: if it is trusted
    extend    by how many epochs the training is made longer first
    """
    download = trust if download is None else download
    config = read_config(directory, "resume", trust)
    check_call(run, {**{key: config[key] for key in config if key != "extended"}, **NOT_KEPT}, called=CONFIG)
    check(config)
    check_call(check_trainer, config["trainer"], "trainer", called="conf/trainer")
    if not is_first_node(config["trainer"]["num_nodes"]):
        ranks.train(RunDirectory(directory), config, preflight(config, download))
        return
    stopped = RunDirectory(directory)
    if extend is not None or not is_finished(stopped):
        with stopped.writing("train"):
            if extend is not None or not is_finished(stopped):  # who held the lock before may have finished it
                longer = extended(stopped, config, extend) if extend is not None else config
                data = preflight(longer, download)
                check_data(stopped, data, ("train", "val", "test"))
                if extend is not None:
                    lengthen(stopped, longer)
                finish(stopped, longer, data)
                return
    print(f"{directory} is finished: nothing to resume")


def run_in_sweep(directory: Path, settings: dict[str, Any], searched: bool) -> float | list[float] | None:
    """Runs a job of a sweep, or goes on with it if it was begun before, by this process or another one.

    searched  whether its sweeper looks for the best values, and waits for the objective

    Returns the objective: what `settings["objective"]` asks for, of the validation images; None where nobody waits.
    """
    if searched:
        check_objective(settings["objective"], settings["dataset"], settings["certificate"])
    begin_or_resume(directory, settings)
    return measure(directory, settings["objective"]) if searched else None


def begin_or_resume(directory: Path, settings: dict[str, Any]) -> None:
    """Runs what is not begun yet, else goes on with it."""
    if not is_run(directory):
        try:
            run(**{**settings, "output_dir": str(directory)})
            return
        except AlreadyExists:
            if not is_run(directory):
                raise
    resume_same(directory, settings)


def resume_same(directory: Path, settings: dict[str, Any]) -> None:
    """Goes on with a run of these settings; ValueError where it is of others.

    What its configuration names is then what the command line names, and as trusted.
    """
    config = read_config(directory, "output_dir", trust=True)
    due = {**settings, **{part: or_none(settings[part]) for part in ("attack", "logger")}}
    config["schedule"] = {"keep": "last", **config["schedule"]} if "keep" in due["schedule"] else config["schedule"]
    if different := [key for key in config if key not in LABELS and config[key] != due.get(key)]:
        raise ValueError(f"`output_dir`: {directory} is a run of another `{different[0]}`: give another directory")
    resume_run(directory, trust=True)


def finish(directory: RunDirectory, config: dict[str, Any], dataset: Dataset) -> None:
    """All stages from wherever the run is: each picks up what it finds in the directory, whose lock is held.

    A KeyboardInterrupt that says how the run goes on, where somebody stops it.
    """
    Console().print(f"run: {directory}", soft_wrap=True, highlight=False)
    try:
        with logging(directory.path, config) as logger:
            ranks.train(directory, config, dataset, logger)
            freeze_run(directory, config, dataset)
            keep_label_noise(directory, dataset)
            loaded = LoadedRun(directory, config, read_network(directory), dataset)
            device = "cuda" if check_trainer(**config["trainer"]) == "gpu" else "cpu"
            certify(loaded, device=device)
            if config["attack"]:
                attack_run(loaded, config["attack"], device=device)
            write_record(directory, finished=True, logger=logger)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"`lipcert train resume={directory}` goes on") from None
    show(directory)


@uncollected()  # it imports much
def preflight(config: dict[str, Any], download: bool = True) -> Dataset:
    """Builds every part once before anything is written: what can't be built is an error that leaves no trace.

    download  whether missing data may be downloaded

    Returns the data set, which is built once and for all.
    """
    config["eps"] = radii(config["eps"])
    if not 0 <= config["seed"] < 2**63:
        raise ValueError(f"`seed` must be from 0 to 2^63 − 1, got {config['seed']}")
    for part in ("dataset", "model", "loss", "optimizer", "schedule", "certificate"):
        if "_target_" not in config[part]:
            raise ValueError(f"`{part}._target_` must be given: it says what `{part}` is")
    settings = config["trainer"]
    check_call(check_trainer, settings, "trainer", called="conf/trainer")
    check_trainer(**settings)
    check_call(check_monitor, config["monitor"], "monitor", called="`monitor`")
    check_monitor(**config["monitor"])
    check_tags(config["tags"])
    if config["logger"]:
        build(config["logger"])
    is_first_node(settings["num_nodes"])
    dataset = build_dataset(config["dataset"], download)
    network = build(config["model"], input_shape=dataset.input_shape, num_classes=dataset.num_classes)
    loss = build(config["loss"], num_classes=dataset.num_classes)
    schedule = build(config["schedule"])
    trained = is_trained(network, schedule)
    groups = None
    if trained:
        try_out(network, config["model"]["_target_"], dataset)
        prepare(loss, network, dataset)
        if settings["precision"] != "32-true":
            try_precision(network, loss, dataset, check_trainer(**settings), settings["precision"])
        groups = make_optimizer(config, network, loss).param_groups
    schedule.apply(0.0, model=network, loss=loss, groups=groups)
    shared_by = settings["devices"] * settings["num_nodes"]
    if schedule.batch_size % shared_by:
        raise ValueError(
            f"`schedule.batch_size` must be a multiple of the {shared_by} ranks that share it, got "
            f"{schedule.batch_size}"
        )
    if schedule.early_stopping and not len(dataset.val):
        raise ValueError("`schedule.early_stopping` needs a validation set: give `dataset.val_size`")
    if schedule.keep == "best" and not len(dataset.val):
        raise ValueError("`schedule.keep`=best needs a validation set: give `dataset.val_size`")
    certificate = build(config["certificate"])
    if config["attack"]:
        build(config["attack"])
    if trained:  # what can't be certified is refused now, not after hours of training
        try_certificate(certificate, network, schedule, dataset)
    import_module("lipcert.training.fit")  # Lightning takes seconds, so it comes last; it may not fit torchvision
    return dataset


def keep_label_noise(directory: RunDirectory, dataset: Dataset) -> None:
    """Writes label_noise.csv where training labels were replaced: index in the training set, label before and after."""
    noise = dataset.label_noise
    if len(noise.indices):
        rows = zip(*(column.tolist() for column in noise), strict=True)
        text = "".join(f"{index},{before},{after}\n" for index, before, after in rows)
        write_atomic(directory / LABEL_NOISE, "index,before,after\n" + text)
