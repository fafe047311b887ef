"""Training in a run's directory: in this process, or in as many ranks as the configuration asks for.

`python -m lipcert.tasks.fitting OUT` is what torchrun starts for each rank. It reads the resolved configuration from
the directory and never enters Hydra: Lightning's own launch is silently wrong inside a sweep.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from lipcert import training
from lipcert.contracts import RanksFailed
from lipcert.datasets import batches
from lipcert.reporting.files import write_atomic
from lipcert.tasks import store
from lipcert.tasks.devices import check_trainer, is_first_node
from lipcert.tasks.errors import blamed, told
from lipcert.tasks.settings import MENDABLE, build, check

RANK_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "NODE_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_MAX_RESTARTS",
)
FAILURE = "failure.txt"
PATIENCE = 600.0  # seconds that other nodes wait for the first to make the run's directory


def fit(directory: Path, config: dict[str, Any]) -> None:
    """Trains the run of `directory` from its last checkpoint on, or from the start; returns when it is trained."""
    devices, num_nodes = config["trainer"]["devices"], config["trainer"]["num_nodes"]
    if devices * num_nodes == 1:
        fit_here(directory, config)
    else:
        if not is_first_node(num_nodes):
            wait_for(directory / store.CONFIG)
        launch(directory, devices, num_nodes)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > deadline:
            raise ValueError(f"the first node did not write {path} in {PATIENCE:.0f} s; do all have one `output_dir`?")
        time.sleep(0.2)


def launch(directory: Path, devices: int, num_nodes: int) -> None:
    """Starts the ranks by torchrun. Several nodes: run the same command on each, with MASTER_ADDR, MASTER_PORT and
    NODE_RANK set, on a file system that they share."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={devices}"]
    if num_nodes == 1:
        command.append("--standalone")
    else:
        command += [
            f"--nnodes={num_nodes}",
            f"--node-rank={os.environ['NODE_RANK']}",
            f"--master-addr={os.environ['MASTER_ADDR']}",
            f"--master-port={os.environ['MASTER_PORT']}",
        ]
    environment = {k: v for k, v in os.environ.items() if k not in RANK_VARIABLES}
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // devices)))
    command += ["-m", "lipcert.tasks.fitting", str(directory)]
    log = directory / ("ranks.log" if num_nodes == 1 else f"ranks-{os.environ['NODE_RANK']}.log")
    failure = directory / FAILURE
    failure.unlink(missing_ok=True)
    pipe = subprocess.PIPE  # open as long as this process lives: its end tells the ranks
    with log.open("wb") as errors, subprocess.Popen(command, env=environment, stdin=pipe, stderr=errors) as ranks:
        status = ranks.wait()
    told = failure.read_text() if failure.exists() else ""
    failure.unlink(missing_ok=True)
    if status and not told:
        raise RanksFailed(f"a rank of {directory} ended with an error, which {log} tells")
    log.unlink()
    if status:
        raise RanksFailed(told)


def fit_here(directory: Path, config: dict[str, Any]) -> None:
    """This process's share of the training."""
    silence_lightning()
    settings, seed = config["trainer"], config["seed"]
    accelerator = check_trainer(**settings)
    dataset, schedule = build(config["dataset"]), build(config["schedule"])
    torch.manual_seed(seed)
    model = build(config["model"], input_shape=dataset.input_shape, num_classes=dataset.num_classes)
    loss = build(config["loss"], num_classes=dataset.num_classes)
    if is_trained(model, schedule):
        prepare(loss, model, dataset)
    path = directory / store.CHECKPOINT
    checkpoint = store.load_checkpoint(path, trust=True) if path.exists() else None
    done = checkpoint["epochs_done"] if checkpoint else 0
    module = training.Training(
        model=model,
        loss=loss,
        optimizer=build(config["optimizer"]),
        schedule=schedule,
        seed=seed,
        config=config,
        on_epoch=EpochLog(directory, keep=done),
    )
    if checkpoint:
        store.load_weights(module, checkpoint["state_dict"])
    trainer = training.make_trainer(
        directory,
        epochs=schedule.epochs,
        early_stopping=schedule.early_stopping,
        precision=settings["precision"],
        accelerator=accelerator,
        devices=settings["devices"],
        num_nodes=settings["num_nodes"],
    )
    if hasattr(model, "memorise"):
        model.memorise(dataset.train.pixels(), dataset.train.labels)
    if not is_trained(model, schedule):
        if trainer.is_global_zero:
            save_untrained(path, module, config)
        return
    if checkpoint and training.stopped_early(checkpoint):
        return
    share = {
        "device": trainer.strategy.root_device,
        "seed": seed,
        "rank": trainer.global_rank,
        "world_size": trainer.world_size,
        "workers": dataset.workers,
    }
    train = batches(dataset.train, schedule.batch_size, augment=dataset.augment, shuffle=True, drop_last=True, **share)
    val = batches(dataset.val, 1000 * trainer.world_size, **share) if len(dataset.val) else None
    training.fit(trainer, module, train, val, path if checkpoint else None)


def prepare(loss: Any, model: torch.nn.Module, dataset: Any) -> None:
    """Lets a loss that keeps something for the model see it; ValueError where it can't train it."""
    if hasattr(loss, "prepare"):
        loss.prepare(model, dataset.input_shape)


def is_trained(model: torch.nn.Module, schedule: Any) -> bool:
    """Whether there is any gradient training to do."""
    return bool(schedule.epochs) and any(p.requires_grad for p in model.parameters())


def make_optimizer(config: dict[str, Any], model: torch.nn.Module, loss: torch.nn.Module) -> torch.optim.Optimizer:
    """The configured optimizer of what is trainable; ValueError naming it if it refuses its configuration."""
    try:
        return build(config["optimizer"])(training.trainable(model, loss))
    except MENDABLE as error:
        raise blamed(f"`optimizer`: {config['optimizer']['_target_']} refuses this", error) from error


def save_untrained(path: Path, module: training.Training, config: dict[str, Any]) -> None:
    """The checkpoint of a classifier that has no gradient training, in the form of every other one's."""
    state = {"state_dict": module.state_dict(), "config": config, "epochs_done": 0}
    training.AtomicCheckpointIO().save_checkpoint(state, path)


class EpochLog:
    """metrics.csv, one row an epoch, and the same scalars for TensorBoard.

    Of a run that goes on after `keep` epochs, what was logged of later ones is dropped: they will be repeated."""

    def __init__(self, directory: Path, keep: int):
        self.directory, self.path, self.keep = directory, directory / store.METRICS, keep
        self.rows: list[dict[str, Any]] = []
        self.writer: Any = None
        if keep and self.path.exists():
            with self.path.open(newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["epoch"]) <= keep]

    def __call__(self, numbers: dict[str, float]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if self.writer is None:
            self.writer = SummaryWriter(str(self.directory), purge_step=self.keep + 1)
        for name, value in numbers.items():
            if name not in ("epoch", "step"):
                self.writer.add_scalar(name, value, numbers["epoch"])
        self.writer.flush()
        self.rows.append(numbers)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(key for row in self.rows for key in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomic(self.path, text.getvalue())


def silence_lightning() -> None:
    """Under Hydra, Lightning's handlers print each line twice; and none of its hints here would be right."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")


def worker(directory: Path) -> None:
    """One rank of several. What a user can mend goes to a file, in one line: all ranks' terminals are one."""
    threading.Thread(target=follow_launcher, daemon=True).start()
    try:
        config = store.read_config(directory, trust=True)  # written by the job that started this rank
        check(config)
        fit_here(directory, config)
    except Exception as error:
        message = told(error, "train")
        if message is None:
            raise
        write_atomic(directory / FAILURE, message[0])
        sys.exit(message[1])


def follow_launcher() -> None:
    """Ends this rank when the process that started it is no more, however it was killed: a rank that trained on would
    write into a directory which another process may have resumed."""
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
