"""Training in a run's directory: in this process, or in as many ranks as the configuration asks for.

`python -m lipcert.tasks.fitting OUT` is what torchrun starts for each rank. It reads the resolved configuration from the
directory and never enters Hydra: Lightning's own launch is silently wrong inside a sweep.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from lipcert import training
from lipcert.contracts import RanksFailed
from lipcert.datasets import batches
from lipcert.reporting.files import write_atomic
from lipcert.tasks import store
from lipcert.tasks.settings import build, check

RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "MASTER_ADDR",
                  "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS")


def check_devices(accelerator: str, devices: int, num_nodes: int) -> str:
    """The accelerator that will be used; ValueError if the machine has fewer devices than asked for."""
    if accelerator not in ("auto", "cpu", "gpu"):
        raise ValueError(f"`trainer.accelerator` must be auto, cpu or gpu, got {accelerator!r}")
    if devices < 1 or num_nodes < 1:
        raise ValueError(f"`trainer.devices` and `trainer.num_nodes` must be at least 1, got {devices} and {num_nodes}")
    gpus = torch.cuda.device_count()
    chosen = accelerator if accelerator != "auto" else "gpu" if gpus else "cpu"
    available = gpus if chosen == "gpu" else os.cpu_count() or 1
    if devices > available:
        raise ValueError(f"`trainer.devices`={devices} is more than this machine has: {available} "
                         f"{'GPUs' if chosen == 'gpu' else 'CPU cores'}")
    return chosen


def fit(directory: Path, config: dict[str, Any]) -> None:
    """Trains the run of `directory` from its last checkpoint on, or from the start; returns when it is trained."""
    ranks = config["trainer"]["devices"] * config["trainer"]["num_nodes"]
    if ranks == 1:
        fit_here(directory, config)
    else:
        launch(directory, config["trainer"]["devices"], config["trainer"]["num_nodes"])


def launch(directory: Path, devices: int, num_nodes: int) -> None:
    """Starts the ranks by torchrun. Several nodes: run the same command on each, with MASTER_ADDR, MASTER_PORT and
    NODE_RANK set, on a file system that they share."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={devices}"]
    if num_nodes == 1:
        command.append("--standalone")
    else:
        missing = [name for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK") if name not in os.environ]
        if missing:
            raise ValueError(f"`trainer.num_nodes`={num_nodes} needs the environment variables {', '.join(missing)}")
        command += [f"--nnodes={num_nodes}", f"--node-rank={os.environ['NODE_RANK']}",
                    f"--master-addr={os.environ['MASTER_ADDR']}", f"--master-port={os.environ['MASTER_PORT']}"]
    environment = {k: v for k, v in os.environ.items() if k not in RANK_VARIABLES}
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // devices)))
    done = subprocess.run([*command, "-m", "lipcert.tasks.fitting", str(directory)], env=environment, check=False)
    if done.returncode:
        raise RanksFailed(f"training in {directory} failed: one of its ranks ended with an error (see above)")


def fit_here(directory: Path, config: dict[str, Any]) -> None:
    """This process's share of the training."""
    silence_lightning()
    settings, seed = config["trainer"], config["seed"]
    accelerator = check_devices(**{k: settings[k] for k in ("accelerator", "devices", "num_nodes")})
    dataset, schedule = build(config["dataset"]), build(config["schedule"])
    torch.manual_seed(seed)
    model = build(config["model"], input_shape=dataset.input_shape, num_classes=dataset.num_classes)
    loss = build(config["loss"], num_classes=dataset.num_classes)
    path = directory / store.CHECKPOINT
    checkpoint = store.load_checkpoint(path, trust=True) if path.exists() else None
    done = checkpoint["epochs_done"] if checkpoint else 0
    module = training.Training(
        model=model, loss=loss, optimizer=build(config["optimizer"]), schedule=schedule, seed=seed, config=config,
        on_epoch=EpochLog(directory, keep=done))
    trainer = training.make_trainer(
        directory, epochs=schedule.epochs, early_stopping=schedule.early_stopping, precision=settings["precision"],
        accelerator=accelerator, devices=settings["devices"], num_nodes=settings["num_nodes"])
    share = {"device": trainer.strategy.root_device, "seed": seed, "rank": trainer.global_rank,
             "world_size": trainer.world_size, "workers": dataset.workers}
    if hasattr(model, "memorise"):
        model.memorise(dataset.train.pixels(), dataset.train.labels)
    if not any(p.requires_grad for p in model.parameters()) or not schedule.epochs:
        if trainer.is_global_zero:
            save_untrained(path, module, config)
        return
    train = batches(dataset.train, schedule.batch_size, augment=dataset.augment, shuffle=True, drop_last=True, **share)
    val = batches(dataset.val, 1000 * trainer.world_size, **share) if len(dataset.val) else None
    training.fit(trainer, module, train, val, path if checkpoint else None)


def save_untrained(path: Path, module: training.Training, config: dict[str, Any]) -> None:
    """The checkpoint of a classifier that has no gradient training, in the form of every other one's."""
    state = {"state_dict": module.state_dict(), "config": config, "epochs_done": 0}
    training.AtomicCheckpointIO().save_checkpoint(state, path)


class EpochLog:
    """metrics.csv, one row an epoch, and the same scalars for TensorBoard. Of a run that goes on after `keep` epochs, what
    was logged of later ones is dropped: they will be repeated."""

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
            self.writer = SummaryWriter(str(self.directory), purge_step=self.keep + 1 if self.keep else None)
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
    """One rank of several."""
    config = store.read_config(directory, trust=True)  # written by the job that started this rank
    check(config)
    try:
        fit_here(directory, config)
    except ValueError as error:
        sys.exit(f"lipcert: {error}")


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
